"""Settings: the file, the environment, options, and which of them holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from puter_client.config import Config, client_settings, namespace_of_login, read_config, redis_user
from puter_client.contract.errors import InvalidInput
from puter_client.paths import Paths

PATHS = Paths.from_environ({"PUTER_HOME": "/srv/puter"})
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config.toml and gives its path."""

    def written(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return written


def problems(path: Path) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        read_config(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def namespace(environ: dict[str, str] | None = None, *, option: str | None = None, config: Config | None = None) -> str:
    return client_settings(environ or {}, namespace=option, config=config or Config(), paths=PATHS).namespace


class TestFile:
    def test_a_file_that_is_not_there_says_nothing(self, tmp_path: Path) -> None:
        assert read_config(tmp_path / "config.toml") == Config()

    def test_it_holds_namespace_url_and_defaults(self, write: Write) -> None:
        config = read_config(
            write('namespace = "team-a"\nredis_url = "rediss://r.example"\n[defaults]\nttl = "4h"\nspot = true\n')
        )
        assert config == Config(
            namespace="team-a", redis_url="rediss://r.example", defaults={"ttl": "4h", "spot": True}
        )

    @pytest.mark.parametrize(
        ("text", "start"),
        [
            ("colour = 1", "'colour': unknown setting; known are namespace"),
            ("namespace = 7", "namespace: write a text"),
            ('namespace = "Team A"', "namespace: 'Team A': use 1 to 39"),
            ('redis_url = "http://x"', "redis_url: is not a Redis URL"),
            ("defaults = 3", "defaults: write a table"),
            ('[defaults]\nregoin = "x"', "defaults.regoin: unknown field; did you mean region?"),
            ('[defaults]\ndisk = "big"', "defaults.disk: 'big': write a whole number"),
            ("[defaults]\nttl = 60", "defaults.ttl: '60': write it like"),
            ('[defaults]\nssh_from = "everybody"', "defaults.ssh_from: 'everybody': write an address"),
            (
                '[defaults]\nprivate_key_path = "/k"',
                "defaults.private_key_path: is filled in by",
            ),
            ('[defaults]\nxyzzy = "x"', "defaults.xyzzy: unknown field; known are alone, ami,"),
            ('[defaults]\ntag = "x"', "defaults.tag: unknown field"),
            ('[defaults]\nuser_data_file = "x"', "defaults.user_data_file: unknown field; did you mean user_data?"),
            ('[defaults]\npublic_key = ""', "defaults.public_key: ''"),
            ('[defaults]\nttl = "1h"\nno_shutdown = true', "defaults.no_shutdown: and ttl exclude"),
            ('[defaults]\nttl = "1h"\nno_shutdown = "true"', "defaults.no_shutdown: and ttl exclude"),
            ("namespace = ", "is not valid TOML: "),
        ],
    )
    def test_what_cannot_be_used_is_a_line_with_file_and_key(self, write: Write, text: str, start: str) -> None:
        (problem,) = problems(write(text))
        assert problem.startswith(start)

    def test_everything_that_cannot_be_used_is_told_at_once(self, write: Write) -> None:
        assert len(problems(write('namespace = 1\nx = 2\n[defaults]\ndisk = 0\nami = "a"\n'))) == 4

    def test_a_file_that_is_no_text_is_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        path.write_bytes(b"\xff\xfe")
        assert problems(path) == ["is not valid UTF-8: save it as UTF-8"]

    def test_one_that_notepad_saved_is_read(self, write: Write) -> None:
        assert read_config(write('\ufeffnamespace = "team-a"\r\n')) == Config(namespace="team-a")

    def test_an_unreadable_url_is_not_shown(self, write: Write) -> None:
        assert "hunter2" not in problems(write('redis_url = "redis://me:hunter2@"'))[0]

    @pytest.mark.parametrize(("mode", "exposed"), [(0o644, True), (0o600, False)])
    @pytest.mark.parametrize(
        "url", ["redis://me:hunter2@r.example", "redis+sentinel://s1,s2/m?sentinel_password=hunter2"]
    )
    def test_a_password_that_others_can_read_is_noticed(self, write: Write, mode: int, exposed: bool, url: str) -> None:
        path = write(f'redis_url = "{url}"')
        path.chmod(mode)
        assert read_config(path).open_to_others is exposed

    def test_its_repr_holds_no_password(self) -> None:
        config = Config(redis_url="redis://me:hunter2@r.example")
        assert "hunter2" not in repr(config) + repr(client_settings({}, namespace="x", config=config, paths=PATHS))


class TestPrecedence:
    FULL = Config(namespace="config")

    def test_an_option_wins_over_all(self) -> None:
        assert namespace({"PUTER_NAMESPACE": "environ"}, option="option", config=self.FULL) == "option"

    def test_the_environment_wins_over_user_and_file(self) -> None:
        environ = {"PUTER_NAMESPACE": "environ", "PUTER_REDIS_URL": "rediss://betty:x@r.example"}
        assert namespace(environ, config=self.FULL) == "environ"

    def test_the_user_of_redis_wins_over_the_file(self) -> None:
        assert namespace({"PUTER_REDIS_URL": "rediss://betty:x@r.example"}, config=self.FULL) == "betty"

    def test_of_the_file_its_namespace_wins_over_the_user_of_its_url(self) -> None:
        both = Config(namespace="config", redis_url="rediss://betty:x@r.example")
        assert namespace({}, config=both) == "config"

    def test_the_user_of_a_url_in_the_file_counts_too(self) -> None:
        assert namespace({"USER": "me"}, config=Config(redis_url="rediss://betty:x@r.example")) == "betty"

    def test_everybodys_user_is_nobody(self) -> None:
        assert namespace({"PUTER_REDIS_URL": "rediss://default:x@r.example"}, config=self.FULL) == "config"

    def test_a_user_that_makes_no_namespace_is_passed_over(self) -> None:
        assert namespace({"PUTER_REDIS_URL": "rediss://Betty_X:x@r.example"}, config=self.FULL) == "config"

    def test_the_login_name_is_the_last_resort(self) -> None:
        assert namespace({"LOGNAME": "Betty.Smith"}) == "betty-smith"

    def test_the_environments_url_wins_over_the_files(self) -> None:
        config = Config(redis_url="redis://file.example")
        settings = client_settings(
            {"PUTER_REDIS_URL": "redis://environ.example", "USER": "me"}, config=config, paths=PATHS
        )
        assert settings.redis_url == "redis://environ.example"

    def test_no_url_is_the_local_engine(self) -> None:
        assert client_settings({"USER": "me", "PUTER_REDIS_URL": ""}, config=Config(), paths=PATHS).redis_url is None

    def test_the_aws_profile_of_the_environment_is_left_to_the_worker(self) -> None:
        settings = client_settings({"USER": "me", "AWS_PROFILE": "work"}, config=Config(), paths=PATHS)
        assert "profile" not in settings.defaults

    @pytest.mark.parametrize("environ", [{"PUTER_NAMESPACE": "No!"}, {"PUTER_REDIS_URL": "ftp://x"}])
    def test_a_variable_that_cannot_be_used_is_refused(self, environ: dict[str, str]) -> None:
        with pytest.raises(InvalidInput):
            client_settings({"USER": "me", **environ}, config=Config(), paths=PATHS)

    def test_a_command_told_to_the_user_names_the_namespace_that_an_option_named(self) -> None:
        settings = client_settings({}, namespace="team", config=Config(), paths=PATHS)
        assert settings.command("wait x") == "puter wait x -n team"


class TestNamespaceOfLogin:
    @pytest.mark.parametrize(
        ("login", "reduced"), [("betty", "betty"), ("DOM\\Betty", "dom-betty"), ("-_x_-", "x"), ("é9", "9")]
    )
    def test_a_login_name_is_reduced_to_the_alphabet(self, login: str, reduced: str) -> None:
        assert namespace_of_login(login) == reduced

    def test_a_long_one_is_cut(self) -> None:
        assert len(namespace_of_login("x" * 60)) == 39

    def test_one_of_which_nothing_is_left_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="--namespace"):
            namespace_of_login("ß")

    def test_a_users_name_in_a_url_is_decoded(self) -> None:
        assert redis_user("redis://be%2Dty:x@r.example") == "be-ty"

    @pytest.mark.parametrize("url", ["redis://hunter2@r.example", "redis://hunter2:@r.example"])
    def test_a_password_that_stands_where_the_user_belongs_is_no_namespace(self, url: str) -> None:
        assert namespace({"PUTER_REDIS_URL": url, "USER": "me"}) == "me"

    def test_the_user_of_a_socket_counts_too(self) -> None:
        assert redis_user("unix://betty:x@/run/redis.sock") == "betty"
