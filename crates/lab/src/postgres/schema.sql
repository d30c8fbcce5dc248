-- The platform's tables, small but plausible, in each of its four databases.
create table organizations (
    id bigint generated always as identity primary key,
    name text not null unique,
    created_at timestamptz not null default now()
);
create table users (
    id bigint generated always as identity primary key,
    organization_id bigint not null references organizations,
    email text not null unique,
    created_at timestamptz not null default now()
);
create table incidents (
    id bigint generated always as identity primary key,
    organization_id bigint not null references organizations,
    reported_by bigint not null references users,
    severity smallint not null check (severity between 1 and 5),
    summary text not null,
    created_at timestamptz not null default now()
);
create index on incidents (organization_id, created_at);
create table audit_logs (
    id bigint generated always as identity primary key,
    actor bigint references users,
    action text not null,
    detail jsonb not null default '{}',
    created_at timestamptz not null default now()
);

insert into organizations (name) select 'organization ' || n from generate_series(1, 5) n;
insert into users (organization_id, email)
    select 1 + n % 5, 'user' || n || '@example.org' from generate_series(1, 50) n;
insert into incidents (organization_id, reported_by, severity, summary)
    select u.organization_id, u.id, 1 + u.id % 5, 'incident of ' || u.email from users u;
insert into audit_logs (actor, action, detail)
    select id, 'user.created', jsonb_build_object('email', email) from users;

-- What the recovery itself writes: one heartbeat, renewed at intervals, and the newest attempted write of each run.
create schema recovery;
create table recovery.heartbeat (
    only_row boolean primary key default true check (only_row),
    number bigint not null,
    written_at timestamptz not null
);
insert into recovery.heartbeat (number, written_at) values (0, clock_timestamp());
create table recovery.write_attempt (
    run text primary key,
    attempts bigint not null default 1,
    written_at timestamptz not null default clock_timestamp()
);

-- What the write load leaves behind: each attempt is a row of its own, so a retry always writes.
create schema lab;
create table lab.writes (
    client integer not null,
    sequence bigint not null,
    attempt integer not null,
    written_at timestamptz not null default clock_timestamp(),
    primary key (client, sequence, attempt)
);
-- Rows that exist only to fill the write-ahead log.
create table lab.ballast (filler text not null);

grant usage on schema recovery, lab to sparc_app;
grant select, insert, update, delete on all tables in schema public, recovery, lab to sparc_app;
grant usage on all sequences in schema public to sparc_app;
