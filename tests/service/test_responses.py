"""What a provider stores, through a whole meterproxy: whose it is survives, background work is booked once."""

import openai
import pytest

from tests import postgres
from tests.service.running import Service, service

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "gpt-4o-mini"


def client_of(running: Service, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.base_url, api_key=key, max_retries=0)


async def test_two_organizations_share_a_provider_and_see_nothing_of_each_other(shared: Service) -> None:
    """What one has made does not exist for the other: looked at, gone on from, listed, deleted."""
    _, key = await shared.customer()
    _, other_key = await shared.customer()
    async with client_of(shared, key) as mine, client_of(shared, other_key) as other:
        made = await mine.responses.create(model=MODEL, input="Hi")
        conversation = await mine.conversations.create()
        stored = await mine.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], store=True, max_tokens=5
        )
        for attempt in (
            other.responses.retrieve(made.id),
            other.responses.delete(made.id),
            other.responses.create(model=MODEL, input="Hi", previous_response_id=made.id),
            other.responses.create(model=MODEL, input="Hi", conversation=conversation.id),
            other.responses.create(model=MODEL, input=[{"type": "item_reference", "id": made.output[0].id}]),
            other.conversations.retrieve(conversation.id),
            other.chat.completions.retrieve(stored.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        assert [completion.id async for completion in other.chat.completions.list()] == []
        assert [completion.id async for completion in mine.chat.completions.list()] == [stored.id]
        assert (await mine.responses.retrieve(made.id)).id == made.id


async def test_rows_say_what_they_belong_to_and_that_moderations_were_free(shared: Service) -> None:
    """The usage rows carry the conversation, and a moderation costs nothing."""
    account, key = await shared.customer("1.00")
    async with client_of(shared, key) as client:
        conversation = await client.conversations.create()
        await client.responses.create(model=MODEL, input="Hi", conversation=conversation.id)
        await client.moderations.create(input="A flower.")
    assert await shared.balance_nanos(account) < 10**9
    rows = await shared.rows(
        "SELECT operation, conversation, amount_nanos, outcome FROM usage_events WHERE account_id = $1"
        " ORDER BY occurred_at",
        account,
    )
    assert [(row["operation"], row["conversation"], row["outcome"]) for row in rows] == [
        ("response", conversation.id, "completed"),
        ("moderation", None, "completed"),
    ]
    assert rows[0]["amount_nanos"] > 0
    assert rows[1]["amount_nanos"] == 0


async def test_background_response_is_booked_once_it_was_seen(shared: Service) -> None:
    """Held until then, booked by the provider's usage, and once."""
    account, key = await shared.customer("1.00")
    async with client_of(shared, key) as client:
        made = await client.responses.create(model=MODEL, input="Hi", background=True)
        while made.status in {"queued", "in_progress"}:
            made = await client.responses.retrieve(made.id)
        again = await client.responses.retrieve(made.id)
        assert again.usage is not None
        spent = 150 * again.usage.input_tokens + 600 * again.usage.output_tokens
    assert await shared.balance_nanos(account) == 10**9 - spent
    rows = await shared.rows("SELECT outcome FROM usage_events WHERE account_id = $1", account)
    assert [row["outcome"] for row in rows] == ["completed"]


async def test_what_was_made_is_known_after_everything_was_killed() -> None:
    """A response and a background hold outlive the processes that made them."""
    with postgres.reachable_directory() as directory:
        async with service(directory) as running:
            account, key = await running.customer("1.00")
            async with client_of(running, key) as client:
                made = await client.responses.create(model=MODEL, input="Hi")
                waiting = await client.responses.create(model=MODEL, input="Hi", background=True)
            await running.kill_everything()
            await running.start()
            async with client_of(running, key) as client:
                assert (await client.responses.retrieve(made.id)).id == made.id
                while waiting.status in {"queued", "in_progress"}:
                    waiting = await client.responses.retrieve(waiting.id)
                await client.responses.retrieve(waiting.id)
            await running.balance_nanos(account)
            rows = await running.rows("SELECT outcome FROM usage_events WHERE account_id = $1", account)
            assert sorted(row["outcome"] for row in rows) == ["completed", "completed"]
            await running.audit()
