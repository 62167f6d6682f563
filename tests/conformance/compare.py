"""Compares a kosoku report with the checked-in expectations: compare.py INDEX EXPECTED [--record]."""

import json
import sys


def outcomes(index_path):
    """Case -> [behavior, behaviorClose]; times and close codes of the one agent are left out."""
    with open(index_path, encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    number = lambda case: [int(part) for part in case.split(".")]
    return {
        case: [cases[case]["behavior"], cases[case]["behaviorClose"]]
        for case in sorted(cases, key=number)
    }


def main(index_path, expected_path, *options):
    actual = outcomes(index_path)
    if "--record" in options:
        lines = [f'  "{case}": {json.dumps(outcome)}' for case, outcome in actual.items()]
        with open(expected_path, "w", encoding="utf-8") as file:
            file.write("{\n" + ",\n".join(lines) + "\n}\n")
        return 0
    with open(expected_path, encoding="utf-8") as file:
        expected = json.load(file)
    different = [
        case
        for case in {**expected, **actual}
        if expected.get(case) != actual.get(case)
    ]
    for case in different:
        print(f"case {case}: expected {expected.get(case)}, got {actual.get(case)}")
    print(f"{len(actual)} cases, {len(different)} not as expected")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
