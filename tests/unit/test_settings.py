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
        read.logs_dir,
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


def test_secrets_are_known_by_the_names_of_their_variables() -> None:
    environ = {
        "AWS_SECRET_ACCESS_KEY": "the-secret-itself",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7",
        "AZURE_STORAGE_ACCOUNT_KEY": "an-account-key",
        "AZURE_STORAGE_SAS_KEY": "a-signature-of-azures",
        "AZURE_STORAGE_MASTER_KEY": "a-master-key",
        "RAY_AUTH_TOKEN": "a-token-of-rays",
        "RAY_AUTH_TOKEN_PATH": "/run/secrets/token",
        "RAY_AUTH_MODE": "token",
        "MIZZEN_API_KEYS": "/etc/mizzen/api-keys",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/gcp/key.json",
        "DB_PASSWORD": "short",
        "HOME": "/home/somebody",
    }
    found = {"the-secret-itself", "AKIAIOSFODNN7", "an-account-key", "a-token-of-rays"}
    found |= {"a-signature-of-azures", "a-master-key"}
    assert set(settings.secrets(environ)) == found


def test_what_a_cluster_hands_to_a_run_is_read() -> None:
    read = settings.read({"MIZZEN_JOB": "{}", "MIZZEN_CODE": "/etc/mizzen/code/code.zip"})
    assert (read.job_json, read.code_zip) == ("{}", Path("/etc/mizzen/code/code.zip"))
    assert settings.read({}).job_json is None


def test_a_store_that_nobody_has_named_is_known_as_such() -> None:
    assert settings.read({"MIZZEN_HOME": "/somewhere"}).store_is_default
    assert not settings.read({"MIZZEN_STORE": "s3://models/here"}).store_is_default


def test_api_keys_are_in_the_store_in_a_folder_or_nowhere() -> None:
    def keys(value: str) -> object:
        return settings.read({"MIZZEN_API_KEYS": value}).api_keys

    assert keys("store") == "store"
    assert keys("none") == "none"
    assert keys("") is None
    assert keys("./store") == Path.cwd() / "store"
    assert settings.read({"MIZZEN_API_KEYS": "/keys"}).api_keys_dir == Path("/keys")
    assert settings.read({"MIZZEN_API_KEYS": "store"}).api_keys_dir is None


def test_traces_are_sent_only_where_a_collector_is_named() -> None:
    assert not settings.read({}).traces
    assert not settings.read({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}).traces
    assert settings.read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}).traces
    assert settings.read({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}).traces


def test_a_level_that_is_none_does_not_keep_anything_from_starting() -> None:
    assert settings.read({}).log_level == "INFO"
    assert settings.read({"MIZZEN_LOG_LEVEL": "warning"}).log_level == "WARNING"
    assert settings.read({"MIZZEN_LOG_LEVEL": "loud"}).log_level == "INFO"


def test_each_header_for_the_collector_is_a_secret() -> None:
    found = settings.secrets({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer abcdef,x-key=0123456789"})
    assert "Bearer abcdef" in found
    assert "0123456789" in found
    assert settings.secrets({"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x=0123456789"}) == [
        "x=0123456789",
        "0123456789",
    ]


def test_who_a_url_says_to_be_is_no_text_for_others() -> None:
    said = "read s3://AKIA:a%2Fkey@films/ratings.csv?region=x, mailed me@there, asked https://token@host:8000/a@b"
    assert settings.without_secrets(said) == (
        "read s3://***@films/ratings.csv?region=x, mailed me@there, asked https://***@host:8000/a@b"
    )
