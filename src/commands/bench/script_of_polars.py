"""What freshet is compared with: the script that a data engineer writes in an hour.

It reads CSV files with polars, casts and cleans them, copies each into a staging table and upserts from it, one process a
table. It knows no S3, Kafka, rejects, lineage or exactly once. `freshet bench` gives it a plan on its standard input:

    {"url": "postgres://…", "tables": [{"table": "bench.sales", "key": ["day"], "types": {"day": "date"}, "files": ["a.csv"]}]}

It prints the seconds from the first file read to the last commit; starting Python is not in them.
"""

import json
import sys
import time
from multiprocessing import get_context

import polars as pl
import psycopg

TYPES = {
    "int4": pl.Int32,
    "int8": pl.Int64,
    "float8": pl.Float64,
    "date": pl.Date,
    "text": pl.String,
}


def clean(frame, types, key):
    """Casts each column; what does not cast becomes NULL, a negative count 0. Of rows of one key the last stays."""
    columns = []
    for name in frame.columns:
        column, kind = pl.col(name).str.strip_chars(), types[name]
        if kind == "bool":
            column = column.str.to_lowercase().is_in(["true", "t", "1", "1.0", "yes", "y"])
        elif kind in ("int4", "int8"):
            column = column.cast(pl.Float64, strict=False).cast(TYPES[kind], strict=False).clip(lower_bound=0)
        elif kind == "date":
            column = column.str.to_date("%Y-%m-%d", strict=False)
        else:
            column = column.cast(TYPES.get(kind, pl.String), strict=False)
        columns.append(column.alias(name))
    return frame.select(columns).unique(subset=key, keep="last", maintain_order=False)


def upsert(table, header, key):
    names, keys = ", ".join(header), ", ".join(key)
    rest = ", ".join(f"{name} = excluded.{name}" for name in header if name not in key)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM staging ON CONFLICT ({keys}) DO UPDATE SET {rest}"


def load(url, part, begin):
    with psycopg.connect(url) as connection:
        begin.wait()
        for path in part["files"]:
            frame = clean(pl.read_csv(path, infer_schema=False), part["types"], part["key"])
            names = ", ".join(frame.columns)
            with connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE TEMPORARY TABLE staging ON COMMIT DROP AS SELECT {names} FROM {part['table']} LIMIT 0"
                )
                with cursor.copy(f"COPY staging ({names}) FROM STDIN (FORMAT csv)") as copy:
                    copy.write(frame.write_csv(include_header=False))
                cursor.execute(upsert(part["table"], frame.columns, part["key"]))
            connection.commit()


def main():
    plan = json.load(sys.stdin)
    # A fork would share the threads' locks of polars.
    context = get_context("spawn")
    begin = context.Barrier(len(plan["tables"]) + 1)
    processes = [context.Process(target=load, args=(plan["url"], part, begin)) for part in plan["tables"]]
    for process in processes:
        process.start()
    begin.wait()
    started = time.monotonic()
    for process in processes:
        process.join()
    seconds = time.monotonic() - started
    if any(process.exitcode != 0 for process in processes):
        sys.exit(1)
    print(seconds)


if __name__ == "__main__":
    main()
