"""Signing in and out: the endpoints by which people come and go."""

import contextlib
from functools import partial
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from meterproxy.control.access import Permission
from meterproxy.control.answers import Answer
from meterproxy.control.bodies import Body, Name, Text
from meterproxy.control.call import Call, Services
from meterproxy.control.letters import ResetLetter, changed_letter
from meterproxy.control.mailer import Mailer
from meterproxy.control.principal import User
from meterproxy.control.route import Route
from meterproxy.control.sign_in import SignedIn
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case, StoreUnavailable

SHORTEST_PASSWORD: Final = 10


def _encodable(text: str) -> str:
    text.encode()  # raises UnicodeEncodeError, which is a ValueError, where it holds half a character
    return text


EMAIL_PATTERN: Final = r"^[^@\s\x00]+@[^@\s\x00]+$"
Email = Annotated[str, Field(min_length=3, max_length=254, pattern=EMAIL_PATTERN), Text]
NewPassword = Annotated[str, Field(min_length=SHORTEST_PASSWORD, max_length=200), AfterValidator(_encodable)]
Password = Annotated[str, Field(max_length=200), AfterValidator(_encodable)]
RenewalToken = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_encodable)]


class NewUser(Body):
    username: Name
    email: Email
    password: NewPassword
    invitation_token: RenewalToken | None = None


class Credentials(Body):
    email: Email
    password: Password


class Renewal(Body):
    renewal_token: RenewalToken


class ChangedPassword(Body):
    old_password: Password
    new_password: NewPassword


class NewPasswordByReset(Body):
    reset_token: RenewalToken
    new_password: NewPassword


class Forgotten(Body):
    email: Email


class Place(Answer):
    """An organization that somebody belongs to."""

    organization_id: UUID
    account_id: UUID
    role: Role


class Me(Answer):
    """Who is signed in."""

    id: UUID
    username: str
    email: str | None
    is_operator: bool
    organizations: list[Place]


class RegisteredUser(Answer):
    """A user who can sign in now."""

    id: UUID
    username: str
    email: str


class Token(Answer):
    """A token for requests, good for so many seconds; the renewal token gets the next one, once."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int
    renewal_token: str

    @classmethod
    def of(cls, signed: SignedIn) -> "Token":
        return cls(
            access_token=signed.access_token,
            token_type="bearer",  # noqa: S106  its type
            expires_in=signed.expires_in,
            renewal_token=signed.renewal_token,
        )


async def registered(on: Services, call: Call) -> RegisteredUser:
    """Become a user."""
    new = call.body_as(NewUser)
    user_id = await on.sign_in.register(new.username, new.email, new.password, call.address, new.invitation_token)
    return RegisteredUser(id=user_id, username=new.username, email=new.email)


async def logged_in(on: Services, call: Call) -> Token:
    """Sign in."""
    given = call.body_as(Credentials)
    return Token.of(await on.sign_in.log_in(given.email, given.password, call.address))


async def _renew(on: Services, call: Call) -> Token:
    return Token.of(await on.sign_in.renew(call.body_as(Renewal).renewal_token))


async def logged_out(on: Services, call: Call) -> None:
    """Sign out."""
    login_id = _user(call).login_id
    if login_id is not None:
        await on.people.end_login(login_id)


async def _me(_on: Services, call: Call) -> Me:
    user = _user(call)
    places = [
        Place(organization_id=place.organization_id, account_id=place.account_id, role=place.role)
        for place in user.memberships.values()
    ]
    return Me(id=user.id, username=user.name, email=user.email, is_operator=user.is_operator, organizations=places)


async def password_changed(on: Services, call: Call) -> None:
    """Change one's password."""
    user, changed = _user(call), call.body_as(ChangedPassword)
    old, new = changed.old_password, changed.new_password
    await _tell_of_change(on, await on.sign_in.change_password(user.id, user.login_id, old, new))


async def password_reset(on: Services, call: Call) -> None:
    """Set one's password by such a secret."""
    given = call.body_as(NewPasswordByReset)
    await _tell_of_change(on, await on.sign_in.reset_password(given.reset_token, given.new_password, call.address))


async def _tell_of_change(on: Services, email: str) -> None:
    """Tell somebody by mail that his password is another one, where that can be: it is by now, whatever happens."""
    with contextlib.suppress(StoreUnavailable):
        if on.mailer is not None and await on.sign_in.may_mail_change(email):
            on.mailer.post(partial(changed_letter, on.mailer, email))


async def forgotten(on: Services, call: Call) -> None:
    """Have a letter sent by which a password can be set; the same to everybody, whoever has this address."""
    mailer, email = mailed(on), call.body_as(Forgotten).email
    await on.sign_in.forgotten(email, call.address)
    letter = ResetLetter(mailer, on.sign_in, email)
    if not mailer.post(letter.write, letter.undo):
        raise ApiError(Case.OVERLOADED, "No letter can be sent right now. Please try again in a minute.")


def mailed(on: Services) -> Mailer:
    """What sends letters. Raises ApiError NOT_FOUND where nothing does."""
    if on.mailer is None:
        raise ApiError(Case.NOT_FOUND, "This service sends no mail. Ask its operator for a link.")
    return on.mailer


def _user(call: Call) -> User:
    principal = call.acting.principal
    assert isinstance(principal, User), "its permission says so"
    return principal


_REFUSED: Final = (Case.WRONG_PASSWORD, Case.SIGN_IN_SLOWED)

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/api/auth/register",
        permission=Permission.OPEN,
        endpoint=registered,
        summary="Become a user with an organization of one's own",
        body=NewUser,
        answer=RegisteredUser,
        status=201,
        refusals=(Case.PERMISSION_DENIED, Case.CONFLICT, Case.SIGN_IN_SLOWED),
    ),
    Route(
        method="POST",
        path="/api/auth/login",
        permission=Permission.OPEN,
        endpoint=logged_in,
        summary="Sign in",
        body=Credentials,
        answer=Token,
        refusals=_REFUSED,
    ),
    Route(
        method="POST",
        path="/api/auth/renew",
        permission=Permission.OPEN,
        endpoint=_renew,
        summary="Go on with a log-in: a token for the next quarter of an hour",
        body=Renewal,
        answer=Token,
        refusals=(Case.NOT_SIGNED_IN,),
    ),
    Route(
        method="POST",
        path="/api/auth/logout",
        permission=Permission.SIGNED_IN,
        endpoint=logged_out,
        summary="Sign out: this log-in's tokens are worth nothing any more",
        status=204,
    ),
    Route(
        method="GET",
        path="/api/auth/me",
        permission=Permission.SIGNED_IN,
        endpoint=_me,
        summary="Who is signed in",
        answer=Me,
    ),
    Route(
        method="POST",
        path="/api/auth/password",
        permission=Permission.SIGNED_IN,
        endpoint=password_changed,
        summary="Change one's password, which ends all other log-ins",
        body=ChangedPassword,
        status=204,
        refusals=_REFUSED,
    ),
    Route(
        method="POST",
        path="/api/auth/forgot",
        permission=Permission.OPEN,
        endpoint=forgotten,
        summary="Have a link sent by which one's password can be set; answers the same whoever has this address",
        body=Forgotten,
        status=204,
        refusals=(Case.NOT_FOUND, Case.SIGN_IN_SLOWED, Case.OVERLOADED),
    ),
    Route(
        method="POST",
        path="/api/auth/reset",
        permission=Permission.OPEN,
        endpoint=password_reset,
        summary="Set one's password by a secret that was mailed or that an operator has made, which ends all log-ins",
        body=NewPasswordByReset,
        status=204,
        refusals=(Case.NOT_SIGNED_IN, Case.SIGN_IN_SLOWED),
    ),
)
