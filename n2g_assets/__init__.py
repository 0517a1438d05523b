"""n2g_assets: neurons of a language model as token graphs, in a Dagster data product."""
