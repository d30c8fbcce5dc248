-- What the recovery writes in the probe database: one heartbeat, renewed at intervals, and the newest attempted write of each run.
create schema if not exists recovery;
create table if not exists recovery.heartbeat (
    only_row boolean primary key default true check (only_row),
    number bigint not null,
    written_at timestamptz not null
);
create table if not exists recovery.write_attempt (
    run text primary key,
    attempts bigint not null default 1,
    written_at timestamptz not null default clock_timestamp()
);
grant usage on schema recovery to sparc_app;
grant select, insert, update on recovery.heartbeat, recovery.write_attempt to sparc_app;
