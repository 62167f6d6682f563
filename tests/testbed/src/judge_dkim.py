"""Judges the DKIM signatures of a mail by dkimpy, another implementation than the one under test.

In: a line of JSON, {"mail": text, "dns": {name: text of its TXT record}}. Out: a list, for each signature whether it
holds, in the order in which they stand.
"""
import json
import sys

import dkim

asked = json.load(sys.stdin)
mail = asked["mail"].encode()
records = {name.rstrip("."): text for name, text in asked["dns"].items()}


def look_up(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    return records.get(name.rstrip("."), "").encode()


def holds(index):
    try:
        return dkim.DKIM(mail, minkey=2048).verify(idx=index, dnsfunc=look_up)
    except dkim.DKIMException:
        return False


head = mail.split(b"\r\n\r\n")[0].split(b"\r\n")
print(json.dumps([holds(index) for index in range(sum(line.startswith(b"DKIM-Signature:") for line in head))]))
