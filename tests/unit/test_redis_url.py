"""A Redis URL: what each form means, which are refused with a remedy, and that nothing of a password is ever shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from puter_client.cli.app import main
from puter_client.config import Config, client_settings, redis_user
from puter_client.contract.errors import InvalidInput
from puter_client.paths import Paths
from puter_client.store.redis_connection import check_url, connection_arguments, connection_pool
from puter_client.store.redis_errors import why_refused
from puter_client.store.redis_url import OPTIONS, RedisUrl
from puter_worker.settings import read_settings

SECRET = "hunter2"
# As it is written, and as it is shown.
READ = {
    "redis://r.example": "redis://r.example:6379/0",
    "redis://r.example/": "redis://r.example:6379/0",
    "redis://r.example:6380/15": "redis://r.example:6380/15",
    "redis://r.example:/1": "redis://r.example:6379/1",
    "redis://r.example?db=7": "redis://r.example:6379/7",
    "redis://r.example/7?db=7": "redis://r.example:6379/7",
    "REDIS://R.Example:6379/0": "redis://r.example:6379/0",
    "rediss://r_1.example": "rediss://r_1.example:6379/0",
    "redis://[::1]:6380/2": "redis://[::1]:6380/2",
    "redis://[2001:db8::7]": "redis://[2001:db8::7]:6379/0",
    "redis://192.0.2.7:1": "redis://192.0.2.7:1/0",
    "redis://hôte.example": "redis://hôte.example:6379/0",
    f"redis://betty:{SECRET}@r.example": "redis://r.example:6379/0",
    f"redis://:{SECRET}@r.example": "redis://r.example:6379/0",
    f"redis://{SECRET}@r.example": "redis://r.example:6379/0",
    "redis://betty:@r.example": "redis://r.example:6379/0",
    "redis://:@r.example": "redis://r.example:6379/0",
    "redis://@r.example": "redis://r.example:6379/0",
    f"redis://betty:{SECRET}@x:y@r.example/3": "redis://r.example:6379/3",
    f"redis://betty:{SECRET}%2F%40%3A%23%3F%25@r.example": "redis://r.example:6379/0",
    f"redis://betty:{SECRET}é@r.example": "redis://r.example:6379/0",
    "redis://r.example?socket_timeout=10&socket_connect_timeout=3&socket_keepalive=yes": "redis://r.example:6379/0",
    "rediss://r.example/1?ssl_ca_certs=/etc/hunter2/my+ca.pem&ssl_check_hostname=false": "rediss://r.example:6379/1",
    "unix:///run/redis.sock": "unix:///run/redis.sock",
    "UNIX:///run/redis.sock?db=2": "unix:///run/redis.sock?db=2",
    "unix:///run/a%20b%0Ac.sock": "unix:///run/a b%0Ac.sock",
    f"unix://betty:{SECRET}@/run/a%40b.sock": "unix:///run/a@b.sock",
    "redis+sentinel://s1/mymaster": "redis+sentinel://s1:26379/mymaster/0",
    "REDIS+SENTINEL://S2:1,s1/my.Master_1-/7": "redis+sentinel://s1:26379,s2:1/my.Master_1-/7",
    "redis+sentinel://s1,s1:26379,s2/m/?db=3": "redis+sentinel://s1:26379,s2:26379/m/3",
    f"redis+sentinel://betty:{SECRET}@[2001:db8::7]:7,[::1],192.0.2.7/m": (
        "redis+sentinel://192.0.2.7:26379,[2001:db8::7]:7,[::1]:26379/m/0"
    ),
    f"redis+sentinel://:{SECRET}%2F%40%3A%23%3F%25%2C@s1/m/0?db=0": "redis+sentinel://s1:26379/m/0",
    f"redis+sentinel://betty:{SECRET}@x,y@s1/m": "redis+sentinel://s1:26379/m/0",
    f"redis+sentinel://s1/m?sentinel_user=asks&sentinel_password={SECRET}%26": "redis+sentinel://s1:26379/m/0",
    f"rediss+sentinel://s1/m?sentinel_password={SECRET}&ssl_ca_certs=/ca.pem": "rediss+sentinel://s1:26379/m/0",
}
# Each is written with a secret in it, by mistake or not, and what the refusal says.
REFUSED = {
    # what is not percent-encoded in a password
    "redis://betty:123/hunter2@r.example:6379/0": "has a path that is not the number of a database",
    "redis://betty:12@3/hunter2@r.example:6379/0": "has a path that is not the number of a database",
    "redis://:hunter2/x@r.example": "names a host or port that cannot be read",
    "redis://betty:123?hunter2@r.example": "has an option after its ? that Puter does not take",
    "redis://betty:123?hunter2=1@r.example": "has an option after its ? that Puter does not take",
    "redis://betty:123?db=hunter2@r.example": "has an option db with a value that cannot be used",
    "redis://betty:123#hunter2@r.example": "contains a #",
    "redis://betty:hunter2#@r.example": "contains a #",
    "redis://betty:[hunter2@r.example": "names a host or port that cannot be read",
    "redis://betty:hun ter2hunter2@r.example": "contains a blank",
    "redis://betty:hunter2@r.example\n": "contains a blank",
    "redis://betty:hunter2\udcff@r.example": "contains a blank",
    "redis://betty:hunter2%ff@r.example": "has percent-encoded bytes in its password that are not UTF-8",
    "unix://betty:123/hunter2@/run/redis.sock": "names no socket",
    "unix://:123/hunter2@/run/redis.sock": "names no socket",
    "unix:///hunter2@/run/redis.sock": "names no socket",
    # schemes
    "": "is not a Redis URL",
    "hunter2": "is not a Redis URL",
    "betty:hunter2@r.example:6379/0": "is not a Redis URL",
    "r.example:6379": "is not a Redis URL",
    "//betty:hunter2@r.example": "is not a Redis URL",
    "http://betty:hunter2@r.example": "is not a Redis URL",
    "valkey://betty:hunter2@r.example": "is not a Redis URL",
    # hosts and ports
    "redis:betty:hunter2@r.example": "names no host",
    "redis:///hunter2": "names no host",
    "redis://betty:hunter2@": "names no host",
    "redis://betty:hunter2@:6379": "names no host",
    "redis://betty:hunter2@r.example:0": "names a host or port that cannot be",
    "redis://betty:hunter2@r.example:65536": "names a host or port that cannot be read",
    "redis://betty:hunter2@r.example:-1": "names a host or port that cannot be read",
    "redis://betty:hunter2@r.example:\uff16": "names a host or port that cannot be read",
    "redis://betty:hunter2@r.example:port": "names a host or port that cannot be read",
    "redis://betty:hunter2@fe80::1:6379": "names a host or port that cannot be read",
    "redis://betty:hunter2@[fe80::1": "names a host or port that cannot be read",
    "redis://betty:hunter2@[x]": "names a host or port that cannot be",
    "redis://betty:hunter2@r..example": "names a host or port that cannot be",
    f"redis://betty:hunter2@{'x' * 64}.example": "names a host or port that cannot be",
    "redis://betty:hunter2@r!example": "names a host or port that cannot be",
    # databases
    "redis://betty:hunter2@r.example/abc": "has a path that is not the number of a database",
    "redis://betty:hunter2@r.example/0/": "has a path that is not the number of a database",
    "redis://betty:hunter2@r.example/1/2": "has a path that is not the number of a database",
    "redis://betty:hunter2@r.example/-1": "has a path that is not the number of a database",
    "redis://betty:hunter2@r.example/\uff11": "has a path that is not the number of a database",
    f"redis://betty:hunter2@r.example/{'9' * 5_000}": "has a path that is not the number of a database",
    "redis://betty:hunter2@r.example/1?db=2": "names two databases",
    "redis://betty:hunter2@r.example?db=x": "has an option db with a value that cannot be used",
    "redis://betty:hunter2@r.example?db=": "has an option db with a value that cannot be used",
    "redis://betty:hunter2@r.example?db=1&db=1": "has the option db twice",
    # options
    "redis://betty:hunter2@r.example?socket_timeout=abc": "has an option socket_timeout with a value",
    "redis://betty:hunter2@r.example?socket_timeout=nan": "has an option socket_timeout with a value",
    "redis://betty:hunter2@r.example?socket_timeout=0.1": "has an option socket_timeout with a value",
    "redis://betty:hunter2@r.example?socket_keepalive=perhaps": "has an option socket_keepalive with a value",
    "redis://betty:hunter2@r.example?ssl_ca_certs=/ca.pem": "has the option ssl_ca_certs, which is for TLS",
    "unix://betty:hunter2@/run/redis.sock?ssl_check_hostname=no": "has the option ssl_check_hostname, which is for TLS",
    "unix://betty:hunter2@/run/redis.sock?socket_keepalive=yes": "has the option socket_keepalive, which is not for",
    "rediss://betty:hunter2@r.example?ssl_cert_reqs=never": "has an option ssl_cert_reqs with a value",
    "rediss://betty:hunter2@r.example?ssl_ca_certs=%00": "has an option ssl_ca_certs with a value",
    "rediss://betty:hunter2@r.example?ssl_certfile=/c": "needs ssl_certfile and ssl_keyfile together",
    # Sentinels
    "redis+sentinel://betty:123/hunter2@s1,s2/m": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:123/hunter2/x@s1,s2/m": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:123?hunter2@s1,s2/m": "has an option after its ? that Puter does not take",
    "redis+sentinel://betty:hunter2@r.example": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:hunter2@r.example/": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:hunter2@r.example/my master": "contains a blank",
    "redis+sentinel://betty:hunter2@r.example/my%20master": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:hunter2@r.example/m/x": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:hunter2@r.example/m/1/2": "names no service of its Sentinels, or no database",
    "redis+sentinel://betty:hunter2@r.example/m/1?db=2": "names two databases",
    "redis+sentinel://betty:hunter2@/m": "names no host",
    "redis+sentinel://betty:hunter2@s1,,s2/m": "names no host",
    "redis+sentinel://betty:hunter2@s1,s2:0/m": "names a host or port that cannot be",
    "redis+sentinel://betty:hunter2@s1,s2:x/m": "names a host or port that cannot be read",
    "redis+sentinel://betty:hunter2@s1,[::1/m": "names a host or port that cannot be read",
    "redis+sentinel://betty:hunter2%ff@s1/m": "has percent-encoded bytes in its password",
    "redis+sentinel://s1/m?sentinel_password=hunter2%ff": "has percent-encoded bytes in its sentinel_password",
    "redis+sentinel://s1/m?sentinel_password=": "has an option sentinel_password with a value",
    "redis+sentinel://s1/m?sentinel_user=hunter2": "needs sentinel_password beside sentinel_user",
    "redis+sentinel://s1/m?ssl_ca_certs=/ca.pem": "has the option ssl_ca_certs, which is for TLS",
    "redis://r.example?sentinel_password=hunter2": "has the option sentinel_password, which is for Sentinels",
    "unix+sentinel://hunter2/m": "is not a Redis URL",
    # sockets
    "unix:run/hunter2.sock": "names no socket",
    "unix://run/hunter2.sock": "names no socket",
    "unix://": "names no socket",
    "unix:///hunter2%00": "names a socket that cannot be",
    f"unix:///hunter2{'x' * 100}": "names a socket that cannot be",
}
# What redis-py takes, too, and Puter does not.
OPTIONS_OF_REDIS_PY = (
    "client_name", "connection_class", "credential_provider", "decode_responses", "encoding", "encoding_errors", "foo",
    "health_check_interval", "host", "max_connections", "parser_class", "password", "path", "port", "protocol",
    "redis_connect_func", "retry", "retry_on_timeout", "ssl_ca_data", "ssl_ciphers", "ssl_min_version", "timeout",
    "username",
)  # fmt: skip


def refused(url: str) -> str:
    """What is said of a URL that cannot be used."""
    with pytest.raises(InvalidInput) as caught:
        RedisUrl.parse(url)
    return str(caught.value)


@pytest.mark.parametrize(("url", "shown"), READ.items())
def test_what_is_shown_is_host_port_and_database(url: str, shown: str) -> None:
    read = RedisUrl.parse(url)

    assert str(read) == shown
    assert SECRET not in repr(read)
    if "ssl_ca_certs" not in url:  # there is no such file
        assert SECRET not in repr(connection_pool(url))


@pytest.mark.parametrize("url", [url for url in READ if "ssl_" not in url and "sentinel" not in url.lower()])
def test_what_is_read_is_what_redis_py_would_read(url: str) -> None:
    ours = connection_arguments(RedisUrl.parse(url))

    assert parse_url(url).items() <= ours.items()


def test_a_url_of_sentinels_says_who_is_asked_and_for_what() -> None:
    read = RedisUrl.parse(
        "rediss+sentinel://betty:a%2Fb@s2:7,s1/m/3?sentinel_user=asks&sentinel_password=c%26d&socket_timeout=9"
    )

    assert (read.sentinels, read.service, read.database) == ((("s1", 26_379), ("s2", 7)), "m", 3)
    assert (read.user, read.password, read.sentinel_user, read.sentinel_password) == ("betty", "a/b", "asks", "c&d")
    assert read.options == {"socket_timeout": 9.0}
    assert read.has_tls


def test_a_certificate_is_held_against_the_host_unless_the_url_says_otherwise() -> None:
    checks = {
        "rediss://r.example": True,
        "rediss://r.example?ssl_check_hostname=true": True,
        "rediss://r.example?ssl_check_hostname=false": False,
        "rediss://r.example?ssl_cert_reqs=none": False,
    }

    assert {url: connection_arguments(RedisUrl.parse(url))["ssl_check_hostname"] for url in checks} == checks


@pytest.mark.parametrize(("url", "why"), REFUSED.items())
def test_what_cannot_be_used_is_one_line_in_words_without_a_piece_of_it(url: str, why: str) -> None:
    told = refused(url)

    assert told.startswith(f"PUTER_REDIS_URL {why}")
    assert pieces(told) == []
    assert "\n" not in told


def pieces(text: str) -> list[str]:
    """The words of a URL that stand in a text."""
    return [piece for piece in (SECRET, "r.example", "123", "betty", "/run/") if piece in text]


def test_every_option_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "shared-host.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page.partition("\n## The URL\n")[2].partition("\n## ")[0], re.MULTILINE)

    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS_OF_REDIS_PY)
def test_an_option_that_would_break_the_program_is_refused(name: str) -> None:
    told = refused(f"rediss://betty:{SECRET}@r.example?{name}=9")

    assert told.startswith("PUTER_REDIS_URL has an option after its ? that Puter does not take; it takes db, ")
    assert SECRET not in told


@pytest.mark.parametrize("character", "/@:#?%[]")
def test_the_remedy_works(character: str) -> None:
    password = f"1{character}2"

    assert RedisUrl.parse(f"redis://betty:{quote(password, safe='')}@r.example").password == password
    assert quote(character, safe="") in refused("redis://betty:1/2@r.example")


def shown_or_refused(url: str) -> str:
    """What is shown of a URL that can be used, else why it cannot."""
    try:
        return str(RedisUrl.parse(url))
    except InvalidInput as error:
        return str(error)


@given(before=st.text(), after=st.text(), user=st.sampled_from(["", "betty"]))
def test_whatever_the_password_is_none_of_it_is_shown(before: str, after: str, user: str) -> None:
    told = shown_or_refused(f"redis://{user}:{before}{SECRET}{after}@r.example:6379/0")

    assert told == "redis://r.example:6379/0" or SECRET not in told


@given(before=st.text(), after=st.text(), user=st.sampled_from(["", "betty"]))
def test_nor_is_it_where_sentinels_are_asked(before: str, after: str, user: str) -> None:
    told = shown_or_refused(f"redis+sentinel://{user}:{before}{SECRET}{after}@s1,s2:1/m/0")

    assert told == "redis+sentinel://s1:26379,s2:1/m/0" or SECRET not in told


@given(url=st.text())
def test_every_text_is_a_url_or_refused(url: str) -> None:
    for text in (url, f"redis://{url}", f"unix://{url}", f"rediss://r.example?{url}"):
        assert shown_or_refused(text).startswith(("redis://", "rediss://", "unix://", "PUTER_REDIS_URL "))
    for text in (f"redis+sentinel://{url}", f"redis+sentinel://s1/{url}", f"rediss+sentinel://s1/m?{url}"):
        assert shown_or_refused(text).startswith(("redis+sentinel://", "rediss+sentinel://", "PUTER_REDIS_URL "))


# -- who reads a URL --------------------------------------------------------------------------------------------------

BAD = f"redis://betty:123/{SECRET}@r.example:6379/0"


@pytest.mark.parametrize(
    "read",
    [
        check_url,
        connection_pool,
        redis_user,
        lambda url: why_refused(url, OSError()),
        lambda url: client_settings({"PUTER_REDIS_URL": url}, config=Config(), paths=Paths.from_environ({"HOME": "/"})),
        lambda url: read_settings({"PUTER_REDIS_URL": url, "HOME": "/"}),
    ],
    ids=["check_url", "connection_pool", "redis_user", "why_refused", "client_settings", "worker's settings"],
)
def test_all_read_it_alike(read: object) -> None:
    assert callable(read)
    with pytest.raises(InvalidInput) as caught:
        read(BAD)

    assert str(caught.value) == refused(BAD)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("words", [["status"], ["submit", "--tag", "x"], ["batches"], ["cancel", "x"]])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_command_ends_with_one_line_and_exit_code_2(
    words: list[str],
    in_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PUTER_HOME", str(tmp_path))
    monkeypatch.setenv("PUTER_REDIS_URL", "" if in_file else BAD)
    (tmp_path / "config.toml").write_text(f'redis_url = "{BAD}"\n' if in_file else "")

    assert main(words) == 2

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert pieces(told.err.replace(str(tmp_path), "")) == []
    assert (refused(BAD).partition(" ")[2] in told.err, "redis_url: " in told.err) == (True, in_file)


# -- files for TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("ssl_ca_certs=FOLDER/hunter2.pem", "names a file with ssl_ca_certs that cannot be read: No such file"),
        ("ssl_ca_certs=FOLDER/empty", "names a file with ssl_ca_certs that holds no certificates in PEM form"),
        ("ssl_ca_certs=FOLDER", "names a file with ssl_ca_certs that holds no certificates in PEM form"),
        ("ssl_certfile=FOLDER/empty&ssl_keyfile=FOLDER/x", "names a file with ssl_keyfile that cannot be read"),
        (
            "ssl_certfile=FOLDER/empty&ssl_keyfile=FOLDER/empty",
            "names a file with ssl_certfile that is no certificate of the key in ssl_keyfile",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused(options: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    with pytest.raises(InvalidInput) as caught:
        check_url(f"rediss://r.example?{options}".replace("FOLDER", str(tmp_path)))

    assert str(caught.value).startswith(f"PUTER_REDIS_URL {why}")
    assert str(tmp_path) not in str(caught.value)
