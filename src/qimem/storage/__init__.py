"""The only importer of SQL libraries: schema, engines, repositories, migrations."""
