# Sourced by the other shell scripts: go to the repository's root and make sure that the requirements are there.
# Uses the active virtual environment; makes and uses .venv where none is active.
#   . scripts/environment.sh requirements.txt

cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements=$1

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        for python in python3.12 python3.13 python3.11 python3.14 python3; do
            if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
                break
            fi
            python=
        done
        if [ -z "${python:-}" ]; then
            echo "error: found no Python from 3.11 to 3.14 on the PATH" >&2
            exit 1
        fi
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    . .venv/bin/activate
fi

# The stamp holds the files that were installed: nothing is asked of the network when nothing has changed.
stamp="$(python -c 'import sys; print(sys.prefix)')/installed-$requirements"
if ! cat requirements*.txt | cmp --silent - "$stamp"; then
    echo "Installing $requirements (several minutes the first time)"
    python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    if [ "$(uname -sm)" = "Linux x86_64" ]; then
        # Compiled for glibc 2.34 or newer; without it only the topology parts of loss and score are missing.
        python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-topolosses.txt ||
            echo "warning: topolosses could not be installed; the topology loss and TopoScore are not available" >&2
    fi
    cat requirements*.txt > "$stamp"
fi
