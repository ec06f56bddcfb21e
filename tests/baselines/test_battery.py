"""The requests to which a NameNode of Hadoop 3.3.6 gave the replies in battery.jsonl: how many get the same here."""

import json
import re
from pathlib import Path

import pytest
import requests
from harness.place import STORES

REQUESTS = [json.loads(line) for line in Path(__file__).with_name("battery.jsonl").read_text().splitlines()]


def reply(answer: requests.Response):
    """The part of a reply that clients act on: a boolean, an exception's name, a JSON document's kind, or the bytes."""
    if not answer.content:
        return ""
    try:
        document = answer.json()
    except ValueError:
        return f"BYTES {answer.text}"
    if not isinstance(document, dict):
        return f"BYTES {answer.text}"
    if "boolean" in document:
        return document["boolean"]
    if "RemoteException" in document:
        return document["RemoteException"]["exception"]
    return f"JSON {next(iter(document))}"


@pytest.mark.parametrize("kind", STORES)
def test_battery(gateway, kind):
    base = f"/{STORES[kind]}/battery"
    same, different = 0, []
    for wanted in REQUESTS:
        target = re.sub(r"(^|=)/(?=(b|p|zz)\b)", rf"\g<1>{base}/", wanted["target"])
        url = f"{gateway.url('webhdfs')}/webhdfs/v1{target}{'&' if '?' in target else '?'}user.name=root"
        answer = requests.request(wanted["method"], url, allow_redirects=False, timeout=30)
        if wanted["follow"] and answer.status_code == 307:
            data = wanted["body"].encode() or None
            answer = requests.request(wanted["method"], answer.headers["Location"], data=data, allow_redirects=False, timeout=30)
        found = (answer.status_code, reply(answer))
        if found == (wanted["status"], wanted["reply"]):
            same += 1
        else:
            different.append(f"{wanted['name']}: {found}, Hadoop {(wanted['status'], wanted['reply'])}")
    print(f"\nbaseline webhdfs battery, {kind}: {same} of {len(REQUESTS)} replies as Hadoop's")
    print("".join(f"   {line}\n" for line in different), end="")
    assert same > 0
