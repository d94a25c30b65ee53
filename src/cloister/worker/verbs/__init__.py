"""One module a verb, each with `run(job, emit) -> values`. Imported only when its job comes."""
