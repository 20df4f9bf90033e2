"""Metrics in MLflow: luthier finetune DATA --log examples.log_mlflow:Writer

Where to is MLflow's own: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

import mlflow


class Writer:
    def begin(self, run, recipe, iteration):
        kept = run / "mlflow.txt"  # the run's name over there
        known = kept.read_text() if kept.exists() else None
        self.id = mlflow.start_run(run_id=known, run_name=run.name).info.run_id
        kept.write_text(self.id)
        if known is None:
            mlflow.log_params(recipe)
        history, there = mlflow.MlflowClient().get_metric_history, mlflow.get_run(self.id).data
        self.last = {name: max(m.step for m in history(self.id, name)) for name in there.metrics}

    def write(self, record):
        kind, step = record["kind"], record["iteration"]
        shown = {f"{n}/{kind}": record[n] for n in ("loss", "accuracy", "lr") if n in record}
        new = {name: value for name, value in shown.items() if step > self.last.get(name, -1)}
        mlflow.log_metrics(new, step=step)

    def close(self):
        mlflow.end_run()
