"""The process inside a sandbox: reads one job, runs its verb, says how it goes. One job, then it ends."""
