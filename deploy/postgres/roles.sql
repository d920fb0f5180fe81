-- Makes the service's three roles, and gives each what it needs of the database that psql is connected to.
--
--     export OWNER_PASSWORD=… API_PASSWORD=… WORKER_PASSWORD=…
--     psql -f deploy/postgres/roles.sql postgresql://postgres@host/difffit
--
-- difffit_owner owns the tables and runs migrations; difffit_api and difffit_worker read and write rows. None of them
-- is above row level security. Run it as a superuser, or as a role that owns the database and may create roles. It can be
-- run before or after the migrations, and again: a password that is not set stays as it is.
\set ON_ERROR_STOP on
\set QUIET on
\getenv owner_password OWNER_PASSWORD
\getenv api_password API_PASSWORD
\getenv worker_password WORKER_PASSWORD
BEGIN;

SELECT format('CREATE ROLE %I', name) FROM unnest('{difffit_owner,difffit_api,difffit_worker}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE difffit_owner LOGIN;
ALTER ROLE difffit_api LOGIN;
ALTER ROLE difffit_worker LOGIN;
\if :{?owner_password}
ALTER ROLE difffit_owner PASSWORD :'owner_password';
\endif
\if :{?api_password}
ALTER ROLE difffit_api PASSWORD :'api_password';
\endif
\if :{?worker_password}
ALTER ROLE difffit_worker PASSWORD :'worker_password';
\endif

-- Only a member may hand things over to a role, or a superuser.
SELECT 'GRANT difffit_owner TO CURRENT_USER' FROM pg_roles WHERE rolname = current_user AND NOT rolsuper \gexec

-- The owner gets what another role has made before.
GRANT USAGE, CREATE ON SCHEMA public TO difffit_owner;
SELECT format('ALTER TABLE %I.%I OWNER TO difffit_owner', schemaname, tablename) FROM pg_tables
WHERE schemaname = 'public' AND tableowner <> 'difffit_owner' \gexec
SELECT format('ALTER FUNCTION %s OWNER TO difffit_owner', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
    AND proname IN ('api_key_by_id', 'note_api_key_use', 'tenant_quotas', 'refuse_change', 'refuse_recent')
\gexec

-- The others get the rows: of the tables that are there, and of those that migrations will make.
GRANT USAGE ON SCHEMA public TO difffit_api, difffit_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO difffit_api, difffit_worker;
-- Which version the tables have is the owner's to write; bases and workers are reported by workers alone. Tables that are
-- not there yet are granted when they are made, and their migration takes that back.
SELECT format('REVOKE INSERT, UPDATE, DELETE ON %I.%I FROM difffit_api', schemaname, tablename) FROM pg_tables
WHERE schemaname = 'public' AND tablename IN ('alembic_version', 'base_models', 'workers') \gexec
SELECT format('REVOKE INSERT, UPDATE, DELETE ON %I.%I FROM difffit_worker', schemaname, tablename) FROM pg_tables
WHERE schemaname = 'public' AND tablename = 'alembic_version' \gexec
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO difffit_api, difffit_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE difffit_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO difffit_api, difffit_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE difffit_owner IN SCHEMA public
    GRANT USAGE ON SEQUENCES TO difffit_api, difffit_worker;
SELECT format('GRANT EXECUTE ON FUNCTION %s TO difffit_api, difffit_worker', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
    AND proname IN ('api_key_by_id', 'note_api_key_use', 'tenant_quotas') \gexec
ALTER DEFAULT PRIVILEGES FOR ROLE difffit_owner IN SCHEMA public
    GRANT EXECUTE ON FUNCTIONS TO difffit_api, difffit_worker;

COMMIT;
