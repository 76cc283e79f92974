"""Which user data Puter accepts, which type it gives to it, and what it says of what it does not accept."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import InvalidSpec, build_spec
from puter_client.contract.userdata import MAX_PARTS, PUTERS, Part, check_type, parts_of

SCRIPT = "#!/bin/sh\ntrue\n"


def mime(*parts: str, head: str = 'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n') -> str:
    """A multipart of parts that are written with their headers."""
    return head + "\n" + "".join(f"--b\n{part}\n" for part in parts) + "--b--\n"


def part(text: str = SCRIPT, **headers: str) -> str:
    """A part; a header's name has _ for -."""
    return "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in headers.items()) + "\n" + text


def refusal(user_data: str) -> str:
    with pytest.raises(InvalidInput) as refused:
        parts_of(user_data)
    assert "\n" not in refused.value.message
    assert refused.value.exit_code == 2
    return refused.value.message


ACCEPTED = {
    SCRIPT: "text/x-shellscript",
    "#!/usr/bin/env python3\r\nprint()\r\n": "text/x-shellscript",
    "#cloud-config\npackages: [git]\n": "text/cloud-config",
    "#cloud-config # of ours\r\npackages: [git]\r\n": "text/cloud-config",
    "#cloud-config\n# vim: ft=yaml\n{a: b}\n": "text/cloud-config",
    "#cloud-boothook\n#!/bin/sh\ntrue\n": "text/cloud-boothook",
    "## template: jinja\n#!/bin/sh\necho {{ v1.region }}\n": "text/jinja2",
    "## template: jinja\r\n#cloud-config\r\nhostname: {{ v1.region }}\r\n": "text/jinja2",
}


@pytest.mark.parametrize(("user_data", "content_type"), ACCEPTED.items())
@pytest.mark.parametrize("before", ["", "\n  ", "\ufeff", "\r\n\t"])
def test_the_beginning_tells_the_type(user_data: str, content_type: str, before: str) -> None:
    assert parts_of(before + user_data) == (Part(content_type=content_type, body=user_data.encode()),)  # type: ignore[arg-type]


@pytest.mark.parametrize(("user_data", "content_type"), ACCEPTED.items())
@pytest.mark.parametrize("declared", ["", "text/plain", "TEXT/Plain; charset=utf-8", "itself"])
def test_a_part_is_told_by_its_beginning_too(user_data: str, content_type: str, declared: str) -> None:
    kind = content_type if declared == "itself" else declared
    encoded = base64.b64encode(user_data.encode()).decode()
    headers = {"Content_Transfer_Encoding": "base64"} | ({"Content_Type": kind} if kind else {})

    assert parts_of(mime(part(encoded, **headers))) == (
        Part(content_type=content_type, body=user_data.encode()),  # type: ignore[arg-type]
    )


def test_a_boothook_may_begin_with_its_interpreter_if_its_type_is_written() -> None:
    (one,) = parts_of(mime(part(Content_Type="text/cloud-boothook")))

    assert (one.content_type, one.body) == ("text/cloud-boothook", SCRIPT.encode())


@pytest.mark.parametrize(
    ("user_data", "complaint"),
    [
        ("echo hi\n", "does not say what it is: begin it with #! (a script), #cloud-config"),
        ("", "does not say what it is"),
        ("#include http://example.com/x\n", "begins with #include: cloud-init would fetch it"),
        ("#include-once\nhttp://example.com/x\n", "begins with #include"),
        ("#INCLUDE http://example.com/x\n", "begins with #include"),
        ("#cloud-config-archive\n- '#!/bin/sh'\n", "begins with #cloud-config-archive: write each item"),
        ("#cloud-config-jsonp\n[]\n", "begins with #cloud-config-jsonp: write the settings themselves"),
        ("#part-handler\n", "begins with #part-handler: it would be given other parts"),
        ("## template: jinja\necho\n", "begins with ## template: jinja: its second line must begin"),
        ("## template: jinja\n{{ '#!/bin/sh' }}\n", "begins with ## template: jinja: its second line must begin"),
        ("## template: jinja\n#cloud-config{{ '-archive' }}\n", "begins with ## template: jinja: its second line"),
        ("## template: jinja\n#cloud-config-archive\n", "begins with ## template: jinja: its second line"),
        ("## template: basic\n#!/bin/sh\n", "does not say what it is"),
        ("#Cloud-Config\na: b\n", "does not say what it is"),
        ("#cloud-config-x\na: b\n", "does not say what it is"),
        ("\x1c#!/bin/sh\n", "does not say what it is"),
        ("#cloud-config\n{{{: [}\n\t- :", "is not valid YAML in its line 2"),
        ("#cloud-config\na: \x01\n", "is not valid YAML"),
        ("#cloud-config\n- a\n", "is not one YAML mapping"),
        ("#cloud-config\n", "is not one YAML mapping"),
        ("#cloud-config\na: b\n---\nc: d\n", "is not one YAML mapping"),
        ("#cloud-config\na: &x [1]\nb: *x\n", "has a YAML alias"),
        ("#cloud-config\na: " + "[" * 8_000 + "]" * 7_000, "has YAML of more than 50 levels"),
        ("#cloud-config\na: " + "- " * 8_000, "is not valid YAML"),
        ("#cloud-config\na:\n  " + "- " * 8_000, "has YAML of more than 50 levels"),
        ("#cloud-config\nlaunch-index: 1\n", "has a launch-index, by which most machines would ignore it"),
        (mime(), "is not valid MIME"),
        (mime(part(), head="Content-Type: multipart/mixed\n"), "is not valid MIME"),
        (mime(part(), head='Content-Type: multipart/alternative; boundary="b"\n'), "is not valid MIME"),
        (mime(part(), head='Content-Type: text/plain; boundary="b"\n'), "is not valid MIME"),
        (mime(part())[: -len("--b--\n")], "is not valid MIME"),
        ("Content-Type: multipart/mixed\n\nnothing\n", "is not valid MIME"),
        (mime(part(), head='Launch-Index: 1\nContent-Type: multipart/mixed; boundary="b"\n'),
         "does not say what it is"),
        (mime(part(), head='MIME-Version: 1.0\nLaunch-Index: 1\nContent-Type: multipart/mixed; boundary="b"\n'),
         "has a Launch-Index header, which Puter sets itself"),
        (mime(part(), head='MIME-Version: 1.0\nSubject: x\nContent-Type: multipart/mixed; boundary="b"\n'),
         "has a header 'Subject': remove it; Puter takes Content-Type, MIME-Version"),
        (mime(*[part()] * (MAX_PARTS + 1)), "has over 16 MIME parts: write no more than that"),
        (mime(part(), part("#include x\n")), "has a MIME part 2 that begins with #include"),
        (mime(part(Content_Type="text/cloud-config-archive")), "has the Content-Type 'text/cloud-config-archive'"),
        (mime(part(Content_Type="application/gzipped")), "has the Content-Type 'application/gzipped'"),
        (mime(part(Content_Type="téxt/x")), "has the Content-Type 't"),
        (mime(part(Content_Type="text")), "has the Content-Type 'text'"),
        (mime(part(Content_Type="text/x-shellscript-per-boot")), "has the Content-Type"),
        (mime(part(Content_Type='multipart/mixed; boundary="c"')), "has the Content-Type 'multipart/mixed'"),
        (mime(part(Content_Type="message/rfc822")), "has the Content-Type 'message/rfc822'"),
        (mime(part("#cloud-config\na: b\n", Content_Type="text/x-shellscript")),
         "begins as text/cloud-config, but its Content-Type is text/x-shellscript: make the two agree"),
        (mime(part(Content_Type="text/cloud-config")), "begins as text/x-shellscript, but its Content-Type is"),
        (mime(part(Launch_Index="3")), "has a MIME part 1 that has a Launch-Index header"),
        (mime(part(X_Merge_Type="list()")), "has a header 'X-Merge-Type'"),
        (mime("MIME-Version: 1.0\nmime-version: 1.0\n" + part()), "has the same header twice"),
        (mime(part(Content_Transfer_Encoding="x-uuencode")), "is not valid MIME: check its headers"),
        (mime(part("%%%", Content_Transfer_Encoding="base64")), "is not valid MIME: check its headers"),
        (mime(part("IyEA", Content_Transfer_Encoding="base64")), "contains a NUL character"),
        (mime(part("IyH/", Content_Transfer_Encoding="base64")), "is not valid UTF-8"),
        (mime(part(Content_Disposition='attachment; filename="a b.sh"')), "has the filename 'a b.sh': use up to 100"),
        (mime(part(Content_Disposition=f'attachment; filename="{PUTERS}4-task"')), "which sorts before Puter's own"),
        (mime(part(Content_Disposition='attachment; filename="00-x.sh"')), "which sorts before Puter's own"),
        (mime(*[part(Content_Disposition='attachment; filename="a.sh"')] * 2), "two MIME parts with the same filename"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line_with_a_remedy(user_data: str, complaint: str) -> None:
    assert complaint in refusal(user_data)


@pytest.mark.parametrize(
    "user_data", ["hunter2", "#hunter2\n", mime(part("hunter2")), "#cloud-config\nhunter2", "#!\0hunter2"]
)
def test_a_refusal_shows_nothing_of_the_content(user_data: str) -> None:
    assert "hunter2" not in refusal(user_data)


def test_multiparts_within_multiparts_are_refused_however_many_there_are() -> None:
    nested = "".join(
        f'Content-Type: multipart/mixed; boundary="{n}"\nMIME-Version: 1.0\n\n--{n}\n' for n in range(2_000)
    )

    assert "is not valid MIME" in refusal(nested)
    assert "has a MIME part 1 that has the Content-Type 'multipart/mixed'" in refusal(nested + "--0--\n")


def test_sixteen_parts_with_names_of_their_own_keep_them() -> None:
    parts = parts_of(mime(*[part(Content_Disposition=f'attachment; filename="{n:03}.sh"') for n in range(1, 17)]))

    assert [one.filename for one in parts] == [f"{n:03}.sh" for n in range(1, 17)]


def test_a_part_as_aws_writes_it_is_accepted() -> None:
    headers = {
        "Content_Type": 'text/x-shellscript; charset="us-ascii"',
        "MIME_Version": "1.0",
        "Content_Transfer_Encoding": "7bit",
        "Content_Disposition": 'attachment; filename="userdata.txt"',
    }

    (one,) = parts_of(mime(part(**headers)))

    assert (one.content_type, one.filename) == ("text/x-shellscript", "userdata.txt")


def test_aliases_that_would_never_end_are_refused_at_once() -> None:
    levels = "".join(f"l{n}: &l{n}\n  <<: [{', '.join([f'*l{n - 1}'] * 20)}]\n" for n in range(1, 60))

    assert "has a YAML alias" in refusal(f"#cloud-config\nl0: &l0 {{a: b}}\n{levels}")


def test_a_refusal_names_the_field() -> None:
    with pytest.raises(InvalidSpec, match=r"^user_data: begins with #include: "):
        build_spec({"user_data": "#include x\n"})


@pytest.mark.parametrize(
    "kind", ["application/gzip", "text/x-include-url", "text/part-handler", "text/plain", "téxt/x"]
)
def test_no_caller_renders_another_type(kind: str) -> None:
    with pytest.raises(InvalidInput, match="does not begin as"):
        check_type(Part(content_type=kind, body=SCRIPT.encode()))  # type: ignore[arg-type]


MIME_PIECES = st.sampled_from([
    "--b\n", "--b--\n", "--c\n", "\n", "\n\n", " ", ";", "=", '"', "%", "\t", "é", "\x85", "\u2028", "\0",
    SCRIPT, "#cloud-config\n{}\n", "=3D=\n=FF", "IyEvYmluL3No\n", "MIME-Version: 1.0\n",
    'Content-Type: multipart/mixed; boundary="b"\n', 'Content-Type: multipart/digest; boundary="c"\n',
    "Content-Type: text/x-shellscript\n", "Content-Type: message/rfc822\n", "Content-Type: message/delivery-status\n",
    "Content-Transfer-Encoding: base64\n", "Content-Transfer-Encoding: quoted-printable\n",
    "Content-Disposition: attachment; filename*0*=utf-8''a%2; filename*1=b\n",
    "Content-Disposition: ; filename*=x'y'%zz\n", 'Content-Disposition: attachment; filename="=?utf-8?q?a?="\n',
])  # fmt: skip


@given(st.lists(MIME_PIECES, max_size=30).map(lambda pieces: mime("".join(pieces))) | st.text(max_size=200))
def test_whatever_is_written_is_accepted_or_refused(user_data: str) -> None:
    try:
        parts = parts_of(user_data)
    except InvalidInput:
        return
    assert 1 <= len(parts) <= MAX_PARTS
    for one in parts:
        check_type(one)
        assert "\0" not in one.body.decode()
