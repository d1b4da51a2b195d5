"""Where values come from, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from qimem.config.load import load
from qimem.config.refusal import Misconfigured
from qimem.config.schema import Settings, options
from qimem.config.transfer import dump, restore
from qimem.config.values import Address
from qimem.kernel.metering import TIERS, Allowance


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "qimem.toml"
    path.write_text(text)
    return path


def mistakes(flags=None, environ=None, file=None) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load(flags or {}, environ or {}, file=file)
    return [str(mistake) for mistake in caught.value.mistakes]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def test_nothing_given_means_the_defaults() -> None:
    loaded = load({}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.origins.keys() == {name for name, _ in options()}


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    path = file(
        tmp_path, '[server]\nworkers = 2\nbind = "127.0.0.1:1"\nexternal_url = "https://a.example/"\n'
    )
    environ = {"QIMEM_SERVER__WORKERS": "3", "QIMEM_SERVER__BIND": "127.0.0.1:2"}
    loaded = load({"server.workers": "4"}, environ, file=path)
    server = loaded.settings.server
    assert (server.workers, server.bind.port, server.external_url) == (4, 2, "https://a.example")
    assert loaded.origins["server.workers"] == "--workers"
    assert loaded.origins["server.bind"] == "QIMEM_SERVER__BIND"
    assert loaded.origins["server.external_url"] == f"{path}:4"
    assert loaded.origins["log.level"] == "default"


def test_the_file_of_the_working_directory_is_read(tmp_path: Path, monkeypatch) -> None:
    file(tmp_path, '[log]\nlevel = "debug"\n')
    monkeypatch.chdir(tmp_path)
    assert load({}, {}).settings.log.level == "debug"


def test_the_short_variables_work() -> None:
    environ = {"QIMEM_BIND": "[::1]:0", "DATABASE_URL": "postgresql://u:p@db/q", "QIMEM_MODE": "stateful"}
    loaded = load({}, environ)
    assert loaded.settings.server.bind == Address("::1", 0)
    assert loaded.settings.database.url.reveal() == "postgresql://u:p@db/q"
    assert loaded.origins["database.url"] == "DATABASE_URL"


def test_stateless_is_memory() -> None:
    assert load({}, {"QIMEM_MODE": "stateless"}).settings.database.mode == "stateless"


def test_an_empty_short_variable_is_none() -> None:
    assert load({}, {"DATABASE_URL": "", "QIMEM_BIND": ""}).settings == Settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QIMEM_WORKERS", "QIMEM_SERVER__WORKERS"),
        ("QIMEM_SERVER_WORKERS", "QIMEM_SERVER__WORKERS"),
        ("QIMEM_DATA_DIR", "QIMEM_SERVER__DATA_DIR"),
        ("QIMEM_DATABASE_URL", "QIMEM_DATABASE__URL"),
        ("QIMEM_AUDIT_MODE", "QIMEM_AUDIT__MODE"),
        ("QIMEM_ROOT_KEY_FILE", "QIMEM_SEAL__ROOT_KEY_FILE"),
    ],
)
def test_a_variable_that_only_looks_like_an_option_is_refused(name: str, meant: str) -> None:
    assert mistakes(environ={name: "2"}) == [f"{name}: {name}: no such option; did you mean {meant}?"]


@pytest.mark.parametrize("name", ["QIMEM_URL", "QIMEM_CLIENT_SECRET", "QIMEM_PORT", "QIMEM_SERVICE_HOST"])
def test_variables_of_others_are_let_be(name: str) -> None:
    assert load({}, {name: "tcp://10.0.0.1:80"}).settings == Settings()


def test_an_empty_one_is_as_good_as_none() -> None:
    assert load({}, {"QIMEM_WORKERS": ""}).settings == Settings()


def test_two_variables_that_disagree_are_refused() -> None:
    environ = {"QIMEM_BIND": "127.0.0.1:1", "QIMEM_SERVER__BIND": "127.0.0.1:2"}
    assert mistakes(environ=environ) == ["QIMEM_SERVER__BIND: server.bind: contradicts QIMEM_BIND"]


def test_every_mistake_is_told_at_once_with_its_origin(tmp_path: Path) -> None:
    path = file(tmp_path, '[server]\nbnid = "x"\nworkers = 0\n\n[sever]\nbind = 1\n')
    found = mistakes({"log.level": "loud"}, {"QIMEM_SERVER__WORKRES": "2"}, path)
    assert found == [
        f"{path}:2: server.bnid: no such option; did you mean server.bind?",
        f"{path}:5: sever: no such option; did you mean server?",
        "QIMEM_SERVER__WORKRES: QIMEM_SERVER__WORKRES: no such option; did you mean QIMEM_SERVER__WORKERS?",
        f"{path}:3: server.workers: expected a whole number from 1 to 64",
        "--level: log.level: expected one of: debug, info, warning, error",
    ]


@pytest.mark.parametrize(
    "line", ['root_key = "c2VjcmV0"', 'admin_password = "hunter2"', 'client_secret = "s"', 'token = "t"']
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = file(tmp_path, f"[seal]\n{line}\n")
    with pytest.raises(Misconfigured) as caught:
        load({}, {}, file=path)
    assert "a secret has no place in this file" in caught.value.message
    assert "0600" in caught.value.hint
    assert (
        line.split('"')[1] not in caught.value.message.replace(str(path), "") or len(line.split('"')[1]) < 3
    )


def test_a_database_password_in_the_file_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, '[database]\nurl = "postgresql://u:hunter2@db/q"\n')
    assert mistakes(file=path) == [f"{path}:2: database.url: holds a password"]
    assert load({}, {}, file=file(tmp_path, '[database]\nurl = "postgresql://u@db/q"\n'))


def test_a_password_of_valkey_in_the_file_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, '[limits]\nvalkey_url = "valkey://:hunter2@h"\n')
    assert mistakes(file=path) == [f"{path}:2: limits.valkey_url: holds a password"]
    assert load({}, {}, file=file(tmp_path, '[limits]\nvalkey_url = "valkey://h"\n'))
    assert "hunter2" not in repr(load({}, {"QIMEM_LIMITS__VALKEY_URL": "valkey://:hunter2@h"}).settings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[server\n", "not TOML"), ("server = 3\n", "no such option"), ('"" = 1\n', "no such option")],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (found,) = mistakes(file=file(tmp_path, text))
    assert reason in found


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert mistakes(file=tmp_path / "none.toml") == [f"{tmp_path}/none.toml: --config: no such file"]


@pytest.mark.parametrize("bind", ["0.0.0.0:80", ":80", "192.0.2.1:80", "[::]:80", "host.example:80"])
def test_an_open_address_needs_a_word_about_tls(bind: str) -> None:
    (found,) = mistakes({"server.bind": bind})
    assert "plain HTTP" in found
    assert load({"server.bind": bind, "server.allow_plain_http": True}, {})
    assert load({"server.bind": bind}, {"QIMEM_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7"})


@pytest.mark.parametrize("bind", ["0.0.0.0:80", "192.0.2.1:80"])
def test_with_a_certificate_it_needs_none(bind: str) -> None:
    loaded = load({"server.bind": bind, "tls.cert": "c.pem", "tls.key": "k.pem"}, {})
    assert loaded.settings.tls.cert == Path("c.pem")
    assert loaded.origins["tls.key"] == "--tls-key"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tls.cert": "c"}, "--tls-cert: tls.cert: needs tls.key"),
        ({"tls.key": "k"}, "--tls-key: tls.key: needs tls.cert"),
        ({"tls.client_ca": "a"}, "--tls-client-ca: tls.client_ca: needs tls.cert"),
        (
            {"tls.cert": "c", "tls.key": "k", "tls.client_certificates": "required"},
            "--tls-client-certificates: tls.client_certificates: needs tls.client_ca",
        ),
        ({"tls.client_certificates": "maybe"}, "expected one of: optional, required"),
    ],
)
def test_half_of_tls_is_refused(given: dict[str, object], told: str) -> None:
    (found,) = mistakes(given)
    assert told in found


def test_half_of_tls_opens_no_address() -> None:
    assert len(mistakes({"tls.key": "k", "server.bind": "0.0.0.0:80"})) == 2


@pytest.mark.parametrize("bind", ["127.0.0.1:80", "127.8.8.8:80", "localhost:80", "[::1]:80"])
def test_loopback_needs_none(bind: str) -> None:
    assert load({"server.bind": bind}, {}).settings.server.bind.loopback


@pytest.mark.parametrize("bind", ["0.0.0.0:9090", ":9090", "[::]:9090", "192.0.2.1:9090"])
def test_metrics_for_other_machines_need_a_word(bind: str) -> None:
    told = mistakes({"server.admin_bind": bind})
    assert len(told) == 1
    assert "asks nobody who they are" in told[0]
    assert load({"server.admin_bind": bind, "server.allow_plain_http": True}, {})
    # Encrypted, and still asking nobody.
    tls = {"server.admin_bind": bind, "tls.cert": "c", "tls.key": "k", "tls.client_ca": "a"}
    assert len(mistakes(tls)) == 1
    assert load(tls | {"tls.client_certificates": "required"}, {})
    assert load({"server.admin_bind": "127.0.0.1:9090"}, {})


@pytest.mark.parametrize(
    ("bind", "admin"),
    [("127.0.0.1:80", "127.0.0.1:80"), ("0.0.0.0:80", "127.0.0.1:80"), ("127.0.0.1:80", "[::]:80")],
)
def test_metrics_are_not_where_the_server_is(bind: str, admin: str) -> None:
    given = {"server.bind": bind, "server.admin_bind": admin, "server.allow_plain_http": True}
    assert mistakes(given) == [f"--admin-bind: server.admin_bind: {admin} is where the server itself listens"]
    assert load(given | {"server.admin_bind": "127.0.0.2:81"}, {})
    assert load(given | {"server.bind": "127.0.0.1:0", "server.admin_bind": "127.0.0.1:0"}, {})


def test_memory_has_one_worker() -> None:
    assert mistakes({"server.workers": 2}, {"QIMEM_MODE": "stateless"}) == [
        "--workers: server.workers: a server in memory has one worker"
    ]


@pytest.mark.parametrize("environ", [{}, {"DATABASE_URL": "postgresql://u@db/q", "QIMEM_MODE": "stateless"}])
def test_a_lease_is_for_postgresql(environ: dict[str, str]) -> None:
    assert mistakes({}, environ | {"QIMEM_CONSISTENCY__MODE": "bounded"}) == [
        "QIMEM_CONSISTENCY__MODE: consistency.mode: bounded is for PostgreSQL: on the embedded database strict costs nothing"
    ]


def test_decisions_are_strict_unless_told_otherwise() -> None:
    environ = {"DATABASE_URL": "postgresql://u@a,b/q"}
    assert load({}, environ).settings.consistency.mode == "strict"
    assert load({}, environ | {"QIMEM_CONSISTENCY__MODE": "bounded"}).settings.consistency.mode == "bounded"


def test_a_credential_and_a_key_file_contradict_each_other() -> None:
    (found,) = mistakes({"seal.root_key_file": "k"}, {"QIMEM_SEAL__SOURCE": "credential"})
    assert "contradicts" in found


def test_a_secret_for_no_url_is_a_mistake() -> None:
    (found,) = mistakes({}, {"QIMEM_AUDIT__CHECKPOINT_SECRET_FILE": "/secret"})
    assert "no audit.checkpoint_url" in found


def test_checkpoints_go_over_https_unless_this_machine_is_meant() -> None:
    environ = {"QIMEM_AUDIT__CHECKPOINT_URL": "http://127.0.0.1:9/hunter2"}
    (found,) = mistakes({}, environ)
    assert "expected https" in found
    assert "hunter2" not in found
    assert load({}, environ | {"QIMEM_OUTBOUND__ALLOW_PLAIN_HTTP": "true"})


def test_settings_cross_a_pipe_whole() -> None:
    environ = {
        "DATABASE_URL": "postgresql://u:p@db/q",
        "QIMEM_SERVER__TRUSTED_PROXIES": "10.0.0.0/8",
        "QIMEM_WEB__CORS_ORIGINS": "https://a.example,http://localhost:3000",
        "QIMEM_CONSISTENCY__MODE": "bounded",
        "QIMEM_LIMITS__TIERS": "free=5/10",
        "QIMEM_LIMITS__ADDRESS": "7/30",
        "QIMEM_LIMITS__VALKEY_URL": "valkey://:p@h",
        "QIMEM_AUDIT__CHECKPOINT_URL": "https://a.example/?token=x",
        "QIMEM_AUDIT__CHECKPOINT_SECRET_FILE": "/secret",
        "QIMEM_AUDIT__CHECKPOINT_FILE": "/kept",
        "QIMEM_OUTBOUND__ALLOW_NETWORKS": "10.0.0.0/8,fd00::/8",
        "QIMEM_OUTBOUND__CA_FILE": "/ca",
    }
    settings = load({"server.bind": "[::1]:8080", "seal.root_key_file": "/k"}, environ).settings
    arrived = restore(dump(settings))
    assert arrived.database.url.reveal() == settings.database.url.reveal()
    assert (arrived.limits.tiers, arrived.limits.address) == (settings.limits.tiers, settings.limits.address)
    assert arrived.limits.valkey_url.reveal() == "valkey://:p@h"
    assert arrived.audit.checkpoint_url.reveal() == "https://a.example/?token=x"
    assert (arrived.audit.checkpoint_file, arrived.outbound) == (Path("/kept"), settings.outbound)
    assert arrived.outbound.allow_networks == ("10.0.0.0/8", "fd00::/8")
    assert arrived.consistency == settings.consistency
    assert arrived.limits.tiers["free"] == Allowance(5, 10)
    assert (arrived.server, arrived.seal, arrived.web, arrived.log) == (
        settings.server,
        settings.seal,
        settings.web,
        settings.log,
    )


def test_limits_are_tables_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "qimem.toml"
    file.write_text(
        "[limits.tiers.free]\nlimit = 5\nwindow_seconds = 10\n[limits.address]\nlimit = 7\n"
        "[limits.tiers.pro]\nlimit = 9\n"
    )
    limits = load({}, {}, file=file).settings.limits
    assert limits.tiers == TIERS | {"free": Allowance(5, 10), "pro": Allowance(9, 60)}
    assert limits.address == Allowance(7, 60)


def test_a_database_url_cannot_be_printed() -> None:
    settings = load({}, {"DATABASE_URL": "postgresql://u:hunter2@db/q"}).settings
    assert "hunter2" not in repr(settings)
