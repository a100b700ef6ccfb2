"""The Ray that a module's tests share."""

from collections.abc import Iterator

import pytest

from mizzen import local_ray, settings


@pytest.fixture(scope="module")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[settings.Settings]:
    """Settings with a home of their own, while a Ray runs in this process as `mizzen train` starts it."""
    home = settings.read({"MIZZEN_HOME": str(tmp_path_factory.mktemp("ray-home"))})
    local_ray.init(home, num_cpus=3)
    try:
        yield home
    finally:
        local_ray.shutdown()
