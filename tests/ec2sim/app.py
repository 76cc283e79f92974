"""HTTP: reads a request, waits, drops and cuts as planned, and sends what the world answers."""

from __future__ import annotations

import asyncio

from aiohttp import web

from tests.ec2sim.control import Control
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.wire import error_response, read_form, read_scope
from tests.ec2sim.world import Answer, Call, World

MAX_BODY = 4 * 1024 * 1024


def make_app(world: World) -> web.Application:
    """The server of one world; EC2 and STS at `/`, the side door at `/_sim/`."""
    app = web.Application(client_max_size=MAX_BODY)

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            call = await _read(request)
        except Ec2Error as error:
            return web.Response(status=error.status, body=error_response("ec2", error, "0"), content_type="text/xml")
        plan, of = world.plan(call), world.dials
        await _pause(plan.delay_before_s, plan.held_before)
        if world.dials is not of:
            return _drop(request)
        answer = world.answer(call, plan)
        await _pause(plan.delay_after_s, plan.held_after)
        if plan.lost or plan.drop:
            return _drop(request)
        if plan.cut:
            return await _cut(request, answer)
        return web.Response(status=answer.status, body=answer.body, headers=_headers(answer))

    app.router.add_post("/", serve)
    Control(world).add_to(app)
    return app


async def _pause(delay_s: float, held: asyncio.Event | None) -> None:
    if delay_s:
        await asyncio.sleep(delay_s)
    if held:
        await held.wait()


async def _read(request: web.Request) -> Call:
    form = read_form(await request.read())
    access_key, region, service = read_scope(request.headers.get("Authorization", ""))
    action = form.get("Action")
    if not action:
        raise Ec2Error("MissingAction", "The request is missing an action.")
    return Call(action=action, form=form, access_key=access_key, region=region, service=service)


def _headers(answer: Answer) -> dict[str, str]:
    return {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-RequestId": answer.request_id}


def _drop(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, answer: Answer) -> web.StreamResponse:
    half = web.StreamResponse(status=answer.status, headers=_headers(answer))
    half.content_length = len(answer.body)
    await half.prepare(request)
    await half.write(answer.body[: len(answer.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half
