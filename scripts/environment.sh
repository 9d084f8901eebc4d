# Sourced by the other shell scripts: go to the repository's root and make sure that the packages are there.
# Uses the active virtual environment; makes and uses .venv where none is active.
#   . scripts/environment.sh                    requirements.txt
#   . scripts/environment.sh scroll onnx dev    and extras of pyproject.toml

cd "$(dirname "${BASH_SOURCE[0]}")/.."

pins() { # of extras, a line each
    python -c 'import sys, tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*(pin for name in sys.argv[1:] for pin in extras[name] if "[" not in pin), sep="\n")' "$@"
}

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

# The stamp holds what was installed: nothing is asked of the network when nothing has changed.
name=${*:-runtime}
stamp="$(python -c 'import sys; print(sys.prefix)')/installed-${name// /-}"
wanted=$(cat requirements.txt && pins "$@" topology)
if [ "$wanted" != "$(cat "$stamp" 2>/dev/null)" ]; then
    echo "Installing the packages of $name (several minutes the first time)"
    python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r <(pins "$@")
    # Alone: what it depends on is not needed by its compiled part, which is all that is used.
    python -m pip install --quiet --disable-pip-version-check --no-deps -r <(pins topology) ||
        echo "warning: topolosses could not be installed; the topology loss and TopoScore are not available" >&2
    printf '%s\n' "$wanted" > "$stamp"
fi
