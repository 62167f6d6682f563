"""A real SMTP server (aiosmtpd) that tells on its standard output, a line of JSON each, what it was given.

Who a mail is for decides what becomes of it:
  later-N@…   the first N attempts are put off (451)
  never@…     there is no such mailbox (550)
  silent-N@…  the first N mails are taken, and the answer never comes
  anybody else gets it
"""
import asyncio
import json
import ssl
import sys
from collections import Counter

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def tell(**what):
    print(json.dumps(what), flush=True)


class Post:
    def __init__(self):
        self.seen = Counter()

    def is_among_the_first(self, kind, address):
        name, _, _ = address.partition("@")
        word, _, count = name.partition("-")
        if word != kind:
            return False
        self.seen[address] += 1
        return self.seen[address] <= int(count)

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("never@"):
            return "550 5.1.1 no such mailbox"
        if self.is_among_the_first("later", address):
            tell(event="put_off", to=address)
            return "451 4.2.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        for address in envelope.rcpt_tos:
            tell(
                event="mail",
                sender=envelope.mail_from,
                to=address,
                text=envelope.content.decode("utf-8", "replace"),
                tls=server.transport.get_extra_info("ssl_object") is not None,
                login=session.authenticated,
            )
            if self.is_among_the_first("silent", address):
                await asyncio.sleep(3600)
        return "250 2.0.0 queued as " + str(id(envelope))


async def main(port, security, certificate, key, username, password):
    def authenticate(server, session, envelope, mechanism, data):
        fits = isinstance(data, LoginPassword) and data.login.decode() == username and data.password.decode() == password
        return AuthResult(success=fits, handled=False)

    context = None
    if security != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    post = Post()

    def connection():
        tell(event="connection")
        return SMTP(
            post,
            enable_SMTPUTF8=True,
            tls_context=context if security == "starttls" else None,
            require_starttls=security == "starttls",
            auth_required=bool(username),
            auth_require_tls=security == "starttls",
            authenticator=authenticate,
        )

    implicit = context if security == "implicit" else None
    await asyncio.get_running_loop().create_server(connection, "127.0.0.1", int(port), ssl=implicit)
    tell(event="ready")
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
