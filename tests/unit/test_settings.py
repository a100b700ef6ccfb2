from pathlib import Path

from mizzen import settings


def test_all_state_lies_below_mizzen_home() -> None:
    read = settings.read({"MIZZEN_HOME": "/somewhere"})
    folders = [
        read.datasets_dir,
        read.prepared_dir,
        read.runs_dir,
        read.cache_dir,
        read.metrics_dir,
        read.run_dir,
    ]
    assert all(folder.parent == Path("/somewhere") for folder in folders)
    assert len(set(folders)) == len(folders)


def test_the_store_is_below_the_home_unless_it_is_named() -> None:
    assert settings.read({"MIZZEN_HOME": "/somewhere"}).store_url == "file:///somewhere/store"
    assert settings.read({"MIZZEN_STORE": "s3://models/here"}).store_url == "s3://models/here"


def test_the_home_defaults_to_a_folder_of_the_user() -> None:
    assert settings.read({}).home == Path.home() / ".mizzen"
    assert settings.read({"MIZZEN_HOME": ""}).home == Path.home() / ".mizzen"


def test_a_tilde_and_a_relative_home_become_an_absolute_path() -> None:
    assert settings.read({"MIZZEN_HOME": "~/models"}).home == Path.home() / "models"
    assert settings.read({"MIZZEN_HOME": "models"}).home == Path.cwd() / "models"


def test_the_settings_of_the_process_come_from_its_environment(mizzen_home: Path) -> None:
    assert settings.current().home == mizzen_home
    assert settings.current() is settings.current()
