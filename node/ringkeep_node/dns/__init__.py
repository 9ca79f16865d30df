"""Names of services and nodes over DNS: a pure answer to each question, a thin transport. Off unless RINGKEEP_DNS is set."""
