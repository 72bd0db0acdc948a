"""Holds a test script of the machines to the names that its driver has, for it can't be run without a virtual machine.

Usage: names.py SCRIPT MACHINE...
"""

import ast
import builtins
import sys

DRIVER = {"start_all", "subtest", "retry", "driver", "machines", "log"}
MACHINE = {
    "block", "crash", "copy_from_host", "execute", "fail", "get_unit_info", "reboot", "shutdown", "sleep", "start", "succeed",
    "systemctl", "unblock", "wait_for_file", "wait_for_open_port", "wait_for_unit", "wait_until_fails", "wait_until_succeeds",
}  # fmt: skip

script, machines = sys.argv[1], set(sys.argv[2:])
with open(script, encoding="utf-8") as file:
    tree = ast.parse(file.read(), script)

bound = set(dir(builtins)) | DRIVER | machines
for node in ast.walk(tree):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        bound.add(node.id)
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        bound.add(node.name)
    elif isinstance(node, ast.arg):
        bound.add(node.arg)
    elif isinstance(node, ast.alias):
        bound.add(node.asname or node.name)

faults = []
for node in ast.walk(tree):
    if isinstance(node, ast.Name) and node.id not in bound:
        faults.append(f"{script}:{node.lineno}: nothing is called {node.id}")
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in machines
        and node.attr not in MACHINE
    ):
        faults.append(f"{script}:{node.lineno}: a machine has no {node.attr}")
print("\n".join(faults))
sys.exit(bool(faults))
