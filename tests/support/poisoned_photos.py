"""Makes the decoder of the protecting child processes fail on photos of some names, as no real decoder should."""

import json
import sys
from pathlib import Path

import pytest

CODE = """
import json, sys
if "rid.models.protector_process" in sys.orig_argv:
    import os, signal, time
    import rid.models.protector
    decode, acts = rid.models.protector.decode, json.loads({acts!r})

    def poisoned(data, policy, name=""):
        act = acts.get(name, "")
        if act.startswith("kill"):
            if act == "kill once":
                try: os.close(os.open({once!r}, os.O_CREAT | os.O_EXCL))
                except FileExistsError: return decode(data, policy, name)
            os.kill(os.getpid(), signal.SIGKILL)
        if act == "hang": time.sleep(1000)
        while act == "spin": pass
        if act == "print": os.write(1, b"noise of a library")
        if act == "fail": raise ArithmeticError("Jane Doe")
        return decode(data, policy, name)

    rid.models.protector.decode = poisoned
"""


def poison(folder: Path, monkeypatch: pytest.MonkeyPatch, acts: dict[str, str]) -> None:
    """Poisons photos by name: "kill", "kill once", "hang", "spin", "print" or "fail".

    Python imports a `sitecustomize` of its path when it starts, here that of the children.
    """
    (folder / "poison").mkdir()
    code = CODE.format(acts=json.dumps(acts), once=str(folder / "poison" / "killed"))
    (folder / "poison" / "sitecustomize.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(folder / "poison"), *sys.path])
