"""Monthly stock prices, one task per ticker, one run per month. Catch-up runs the months that have not run yet.

The prices are a public data set (January 2000 to March 2010) that the vega_datasets package contains, so the
DAG needs no network. A run is idempotent: it replaces the rows of its month.
"""

from datetime import UTC, datetime

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Variable, dag, task

TABLE = """
    CREATE TABLE IF NOT EXISTS stock_prices (
        symbol text, day date, price numeric NOT NULL, PRIMARY KEY (symbol, day)
    )
"""


@dag(
    schedule="@monthly",
    start_date=datetime(2009, 10, 1, tzinfo=UTC),
    end_date=datetime(2010, 2, 1, tzinfo=UTC),
    catchup=True,
    max_active_tasks=2,
    max_active_runs=1,
    tags=["lab"],
)
def get_stocks_dag():
    @task
    def create_table() -> list[str]:
        PostgresHook("lab_database").run(["SELECT pg_advisory_xact_lock(1)", TABLE])
        return Variable.get("stocks", deserialize_json=True)

    @task
    def get_prices(symbol: str, logical_date: datetime | None = None) -> int:
        from vega_datasets import local_data

        assert logical_date is not None
        prices = local_data.stocks()
        month = prices[(prices["symbol"] == symbol) & (prices["date"].dt.strftime("%Y-%m") == f"{logical_date:%Y-%m}")]
        rows = [(symbol, row.date.date(), row.price) for row in month.itertuples()]
        PostgresHook("lab_database").insert_rows(
            "stock_prices",
            rows,
            target_fields=["symbol", "day", "price"],
            replace=True,
            replace_index=["symbol", "day"],
        )
        return len(rows)

    get_prices.expand(symbol=create_table())


get_stocks_dag()
