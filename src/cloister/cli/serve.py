"""Commands on deployments."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.cli.leaving import leaving
from cloister.cli.output import JsonFlag, moment, print_json, print_table, say, visible
from cloister.cli.session import connect

app = typer.Typer(no_args_is_help=True)


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
def stop(reference: Annotated[str, typer.Argument(metavar="NAME")], json: JsonFlag = False) -> None:
    """Stop a deployment. Works also while the ledger refuses."""
    with connect() as client, leaving("stopping goes on.", "See `cloister serve list`."):
        deployment = client.stop_deployment(reference)
    print_json(deployment) if json else say(f"{visible(deployment.name)} is {deployment.state}.")
