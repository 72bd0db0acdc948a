"""Puts what harness.nix evaluated into files, as Nix and NixOS would.

Usage: lay_out.py EVALUATED PACKAGE WORK

Writes the generated settings where the evaluation says they are, and to WORK:
  checks          a shell script that makes each file of /etc as its build would, and prints what goes wrong
  faults/NAME     the build of settings that must be refused; faults/NAME.words: in words that contain these
  units/N/        each packaged unit that differs from the others with its drop-in, and the two as one file in units/N/whole/
"""

import json
import pathlib
import re
import shlex
import sys

evaluated = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
package, work = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])


def write(path, text):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def machines():
    for machine in evaluated["machines"].values():
        for node in machine["nodes"].values():
            yield node["itself"]
            yield from node["specialisations"].values()


good = list(evaluated["hosts"].values()) + list(machines())

# YAML takes JSON as it is. What nixpkgs would write is not run here.
for host in good + list(evaluated["faults"].values()):
    for file in host["generated"]:
        write(file["path"], json.dumps(file["value"], indent=2))

builds = {file["path"]: file["script"] for host in good for file in host["etc"].values()}
lines = []
for path, script in builds.items():
    said = shlex.quote(f"the build of {pathlib.Path(path).name[65:]} fails:")
    if script:
        lines.append(f"mkdir -p {shlex.quote(str(pathlib.Path(path).parent))}")
        lines.append(f"said=$(out={shlex.quote(path)} bash -euc {shlex.quote(script)} 2>&1) || printf '%s\\n' {said} \"$said\"")
    lines.append(f"[[ -s {shlex.quote(path)} ]] || echo not made: {shlex.quote(path)}")
write(work / "checks", "\n".join(lines) + "\n")

for name, fault in evaluated["faults"].items():
    for file in fault["etc"].values():
        write(work / "faults" / name, file["script"] or "")
        write(work / "faults" / f"{name}.words", fault["message"])

# The triggers differ from host to host and mean nothing to systemd.
known = set()
for host in good:
    for name, drop_in in host["units"].items():
        same = (name, re.sub(r"(?m)^X-Re\w+-Triggers=.*\n", "", drop_in))
        if same in known:
            continue
        known.add(same)
        unit = (package / "lib/systemd/system" / f"{name}.service").read_text(encoding="utf-8")
        directory = work / "units" / str(len(known))
        write(directory / f"{name}.service", unit)
        write(directory / f"{name}.service.d" / "overrides.conf", drop_in)
        write(directory / "whole" / f"{name}.service", f"{unit}\n{drop_in}")
