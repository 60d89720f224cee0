"""See the package."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import loop
from tests.benchmarks.loop import pairs, poison
from tests.benchmarks.loop.streams import machines, scaled_set_points
from tests.benchmarks.loop.week import Week, line
from tests.brokers import any_broker


def main() -> int:
    parser = argparse.ArgumentParser(
        description=loop.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="tests.benchmarks.loop"
    )
    parser.add_argument("what", choices=["pairs", "tep", "poison", "week"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--out", type=Path, help="all figures, as JSON")
    arguments = parser.parse_args()
    files = arguments.files
    with any_broker() as broker, tempfile.TemporaryDirectory() as folder:
        print(f"Kafka: {broker.name}", file=sys.stderr)
        if arguments.what == "poison":
            results = poison.run(broker.bootstrap, Path(folder), files)
        elif arguments.what == "week":
            results = Week(broker.bootstrap, Path(folder), arguments.days).run()
            for entry in results["history"]:
                print(line(entry, results["begin"]))
            print({name: value for name, value in results.items() if name not in ("history", "events")})
        else:
            both = zip(files[::2], files[1::2], strict=True)
            streams = [scaled_set_points(files)] if arguments.what == "tep" else [machines(a, b) for a, b in both]
            results = pairs.run(broker.bootstrap, Path(folder), streams)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
