"""Fails if a version in constraints.txt has a known vulnerability; `make check` runs it.

pip-audit's exit code alone does not tell: it is 1 for a service that cannot be reached as for a
vulnerability, and 0 for packages that it could not look up. Only what was looked up counts here;
the rest is said, and fails nothing, so that the checks can be run without a network.
"""

import argparse
import json
import re
import subprocess
import sys

# Vulnerabilities that do not concern this program: their ids, and why.
ACCEPTED: dict[str, str] = {}
UNREACHABLE = r"requests\.exceptions|ServiceError|ConnectionError|Timeout"


def audit(constraints: str, service: str) -> int:
    """The exit code: 1 for a known vulnerability, 2 if pip-audit itself failed."""
    command = [sys.executable, "-m", "pip_audit", "-r", constraints, "--no-deps", "--disable-pip"]
    command += ["--progress-spinner", "off", "-f", "json", "-s", "osv", "--osv-url", service]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = done.stderr.strip().splitlines()[-1] if done.stderr else "no answer"
        if re.search(UNREACHABLE, done.stderr):
            print(f"not audited: {service} cannot be asked: {last}")
            return 0
        print(f"pip-audit failed: {last}")
        return 2
    skipped = [package for package in found if "skip_reason" in package]
    for package in skipped:
        print(f"not audited: {package['name']}: {package['skip_reason']}")
    wrong = 0
    for package in found:
        for hit in package.get("vulns", []):
            names = {hit["id"], *hit["aliases"]}
            if names & set(ACCEPTED):
                continue
            wrong += 1
            fixed = ", ".join(hit["fix_versions"]) or "nothing yet"
            print(f"{package['name']} {package['version']}: {hit['id']}, fixed by {fixed}")
    print(f"{len(found) - len(skipped)} packages audited, {wrong} known vulnerabilities")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("constraints", nargs="?", default="constraints.txt")
    parser.add_argument("--service", default="https://api.osv.dev/v1/query")
    given = parser.parse_args()
    sys.exit(audit(given.constraints, given.service))
