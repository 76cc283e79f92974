"""Options that several commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from puter_client.contract.duration import parse_duration_s

if TYPE_CHECKING:
    import msgspec

    from puter_client.contract.declaration import Input

F = TypeVar("F", bound=Callable[..., Any])


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    return None if value is None else float(parse_duration_s(value, what="--timeout"))


namespace_option = click.option(
    "-n", "--namespace", metavar="NAME", help="The person or team whose machines are meant. [PUTER_NAMESPACE]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be requested, and request nothing.")
again_option = click.option("--again", is_flag=True, help="Launch a tag that has ended again, whatever its result.")


def timeout_option(default: str | None) -> Callable[[F], F]:
    """The option `--timeout`, which the command gets in seconds."""
    shown = f"  [default: {default}]" if default else "  [default: none]"
    text = f"How long to wait, like 90s or 10m; the request goes on.{shown}"
    return click.option("--timeout", metavar="TIME", default=default, callback=_seconds, help=text)


def wait_option(default: str, name: str = "--wait") -> Callable[[F], F]:
    """The state of a machine at which the command returns."""
    choices = ["queued", "launched", "running", *(["terminated"] if name == "--for" else []), "finished"]
    return click.option(
        name, "wait", type=click.Choice(choices), default=default, show_default=True, help="The state to wait for."
    )


def spec_options(struct: type[msgspec.Struct]) -> Callable[[F], F]:
    """An option for each declared field of a spec that has one, in the order of the declarations."""
    from puter_client.contract.declaration import inputs

    return _all(*(_spec_option(field) for field in inputs(struct).values() if field.option is not None))


def machine_options(function: F) -> F:
    """The options that describe a machine; the names of the parameters are those of the fields."""
    from puter_client.contract.spec import Spec  # not for commands that only look

    return spec_options(Spec)(function)


def _spec_option(field: Input) -> Callable[[F], F]:
    from puter_client.contract.declaration import Form, Option

    option, long = field.option or Option(), field.option_name
    if option.form is Form.FLAG:
        if not option.flags:
            return click.option(f"{long}/--no-{long[2:]}", field.name, default=None, help=field.help)
        flags = {long[2:]: ("true", field.help)} | dict(option.flags)
        return _all(
            *(
                click.option(f"--{name}", field.name, flag_value=value, type=str, default=None, help=text)
                for name, (value, text) in flags.items()
            )
        )
    if option.form is Form.SWITCH:
        return click.option(long, field.name, is_flag=True, default=None, help=field.help)
    names = [f"-{option.short}", long] if option.short else [long]

    def complete(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
        return [choice for choice in option.choices if choice.startswith(begun)]

    return click.option(
        *names,
        field.name,
        metavar=option.metavar,
        multiple=option.form.repeated,
        help=field.help,
        shell_complete=complete if option.choices else None,
    )


selection_options = _all(
    click.argument("tags", nargs=-1, metavar="[TAG]..."),
    click.option("--batch", metavar="ID|last", help="All tags of one submission."),
)
