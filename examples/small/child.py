"""What ``test_children`` starts."""

import os
import sys

import psycopg2

connection = psycopg2.connect(os.environ["POOLGUARD_TEST_DSN"])
connection.cursor().execute("SELECT * FROM pg_class WHERE oid = 1259")
sys.stdout.write("connected\n")
sys.stdout.flush()
sys.stdin.readline()
