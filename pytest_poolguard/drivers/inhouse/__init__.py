"""Pool classes that the ini file names."""
