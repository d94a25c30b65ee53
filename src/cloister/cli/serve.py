"""Commands on deployments."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.chat import chat
from cloister.cli.leaving import leaving
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, visible
from cloister.cli.session import connect

app = typer.Typer(no_args_is_help=True)
app.command()(chat)


@app.command()
def start(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The merged model to serve.")],
    name: Annotated[str, typer.Option("--name", "-n", help="What clients ask for as `model`.")],
    max_model_len: Annotated[
        int, typer.Option(min=16, help="Longest prompt and answer together, in tokens.")
    ] = 1024,
    wait: Annotated[bool, typer.Option(help="Wait until it answers.")] = True,
    json: JsonFlag = False,
) -> None:
    """Serve a merged model through vLLM, in a sandbox, behind the gateway."""
    from cloister.api import ServeConfig, ServeRequest
    from cloister.cli.validation import validated

    request = validated(ServeRequest, name=name, model=model, config=ServeConfig(max_model_len=max_model_len))
    with connect() as client:
        deployment = client.serve(request)
        stop = f"See `cloister serve list`, or end it: `cloister serve stop {deployment.name}`."
        with leaving("its engine goes on starting.", stop):
            if wait:
                deployment = client.ready_deployment(deployment.deployment_id)
        url = client.status().gateway_url
    if json:
        print_json({**deployment.model_dump(mode="json"), "gateway_url": url})
    else:
        say(
            f"{visible(deployment.name)} ({deployment.deployment_id}) is {deployment.state}; gateway at {url}."
        )
        say("Clients need a key: `cloister client issue NAME`.")


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the deployments."""
    with connect() as client:
        found = client.deployments()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "state", "model", "restarts", "since", "problem"),
        [
            (
                d.name,
                d.deployment_id,
                d.state,
                d.model,
                d.restarts,
                moment(d.created_at),
                d.error.detail if d.error else "",
            )
            for d in found
        ],
        empty="Nothing is served. Start with `cloister serve start MODEL --name NAME`.",
    )


@app.command()
def load(json: JsonFlag = False) -> None:
    """Show what each engine says of its work and its cache at this moment."""
    with connect() as client:
        names = {one.deployment_id: one.name for one in client.deployments()}
        found = client.engine_loads()
    if json:
        print_json(found)
        return
    print_table(
        ("name", "id", "at work", "waiting", "cache in use", "of prompts found in it"),
        [
            (
                names.get(one.deployment_id, "-"),
                one.deployment_id,
                _or_dash(one.running),
                _or_dash(one.waiting),
                "-" if one.cache_used is None else f"{one.cache_used:.0%}",
                f"{(one.cache_found or 0) / one.cache_asked:.0%}" if one.cache_asked else "-",
            )
            for one in found
        ],
        empty="No engine is ready.",
    )


def _or_dash(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


@app.command()
def stop(
    reference: Annotated[str, typer.Argument(metavar="NAME")],
    drain: Annotated[
        float,
        typer.Option(
            min=0, max=3600, help="Seconds for requests in progress to end. New ones are refused at once."
        ),
    ] = 0,
    json: JsonFlag = False,
) -> None:
    """Stop a deployment. Works also while the ledger refuses."""
    with connect() as client, leaving("stopping goes on.", "See `cloister serve list`."):
        deployment = client.stop_deployment(reference, drain_s=drain)
    print_json(deployment) if json else say(f"{visible(deployment.name)} is {deployment.state}.")
