"""The explorer: pages and JSON over the published database, for people who would rather look than read."""
