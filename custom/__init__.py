"""Components that the bundles' configurations name by ``_target_``, where no library has them."""

from .errors import DataError, show_data_errors_as_one_line

__all__ = ["DataError"]

show_data_errors_as_one_line()
