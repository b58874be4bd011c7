"""Chapters: what the API's document tells apart, in the order in which somebody new would read it."""

from typing import Final, NamedTuple


class Chapter(NamedTuple):
    """What belongs together; `roots` are the paths that begin it."""

    name: str
    description: str
    roots: tuple[str, ...]


CHAPTERS: Final = (
    Chapter("OpenAI's API", "For keys (`mp-…`). Bodies and answers are as OpenAI documents them.", ("/v1",)),
    Chapter("OpenAI's usage and costs", "For keys that may read the organization's usage.", ("/v1/organization",)),
    Chapter("Signing in", "Who one is.", ("/api/auth", "/api/invitations")),
    Chapter("Keys", "One's own API keys, and for those who manage the organization everybody's.", ("/api/keys",)),
    Chapter("Chat", "For signed-in people, on the organization's credit.", ("/api/chat", "/api/ai")),
    Chapter("Prices", "What models cost here.", ("/api/prices",)),
    Chapter("Activity", "One row for each exchange.", ("/api/user", "/api/usage/logs", "/api/usage/requests")),
    Chapter("Usage", "In figures, and told from elsewhere.", ("/api/usage", "/api/credits/usage")),
    Chapter("Credit", "Balance, ledger, statements and purchases.", ("/api/credits",)),
    Chapter("Budgets", "Limits, how far they are used, and what they have refused.", ("/api/budgets", "/api/refusals")),
    Chapter("Notifications", "What one should hear of.", ("/api/notifications",)),
    Chapter("Organizations", "Members, invitations and teams.", ("/api/organizations",)),
    Chapter("Operating", "For operators who have signed in, or with the admin token.", ("/api/admin", "/api/audit")),
    Chapter("Operating by the admin token", "For machines.", ("/admin",)),
    Chapter("The service", "Whether it is up, its metrics, and this document.", ("",)),
)


def chapter_of(path: str) -> str:
    """The name of the chapter that a path is in: the one with the longest root."""
    fitting = [
        (len(root), chapter.name) for chapter in CHAPTERS for root in chapter.roots if f"{path}/".startswith(f"{root}/")
    ]
    return max(fitting)[1]
