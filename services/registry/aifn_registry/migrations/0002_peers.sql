-- What other members have told, newest word on each thing; the gate has verified it. A retired thing leaves its place
-- behind, so that an older word that comes late does not bring it back.
CREATE TABLE peer_fact (
    origin      text NOT NULL,
    stream      text NOT NULL,
    record_key  text NOT NULL,
    epoch       bigint NOT NULL,
    seq         bigint NOT NULL,
    fact        text NOT NULL,
    source      text NOT NULL,
    told_at     timestamptz NOT NULL,
    retired     boolean NOT NULL,
    data        jsonb NOT NULL,
    heard_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, record_key)
);

-- The one way in: for this service, and for the gate of a member without a broker, whose role may execute this alone.
CREATE FUNCTION put_peer_fact(
    p_origin text, p_stream text, p_record_key text, p_epoch bigint, p_seq bigint, p_fact text, p_source text,
    p_told_at timestamptz, p_retired boolean, p_data text
) RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = public AS $$
    WITH put AS (
        INSERT INTO peer_fact AS f (origin, stream, record_key, epoch, seq, fact, source, told_at, retired, data)
        VALUES (p_origin, p_stream, p_record_key, p_epoch, p_seq, p_fact, p_source, p_told_at, p_retired, p_data::jsonb)
        ON CONFLICT (stream, record_key) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq,
            fact = excluded.fact, source = excluded.source, told_at = excluded.told_at, retired = excluded.retired,
            data = excluded.data, heard_at = now()
        WHERE (excluded.epoch, excluded.seq) > (f.epoch, f.seq)
        RETURNING 1)
    SELECT EXISTS (SELECT FROM put)
$$;
