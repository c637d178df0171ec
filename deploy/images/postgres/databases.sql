-- A role and a database for each service of compose.yaml; each may enter its own only. psql runs it once, at the first start.
\getenv password POSTGRES_PASSWORD
CREATE TEMPORARY TABLE service AS
SELECT unnest(ARRAY['registry', 'accounting', 'scheduler', 'datalab', 'skills', 'siteagent']) AS name;
SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', name, :'password') FROM service \gexec
SELECT format('CREATE DATABASE %I OWNER %I', name, name) FROM service \gexec
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', name) FROM service \gexec
