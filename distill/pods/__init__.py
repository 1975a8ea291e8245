"""From an experiment and a topology to what books the machines and starts the run on every host of them."""
