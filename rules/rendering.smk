"""Tables."""


rule tables:
    input:
        expand(f"{RESULTS}/purified/{{purifier}}.parquet", purifier=EVALUATED),
        expand(f"{RESULTS}/compression/{{purifier}}.parquet", purifier=EVALUATED),
        [f"{RESULTS}/{key}/{purifier}.parquet" for key in ("distances", "randomness", "jacobian", "audit", "attack_strength") for purifier in config["run"][key]],
