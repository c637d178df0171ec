-- Rates by rule, accounting periods, and gaps in what sites have sent.

-- What a record says of cores, devices, memory and energy, as far as it does; a charging rule may ask for it.
ALTER TABLE usage_record ADD COLUMN occupied text;

-- A card is known by its resource and the moment from which it holds: a later one takes over, so nothing is ever changed
-- here. `rule` as `domain/rates.py` reads it. `not_confirmed` names parameters for which no public source was found.
ALTER TABLE rate_card
    ADD COLUMN rule jsonb,
    ADD COLUMN version int NOT NULL DEFAULT 1 CHECK (version > 0),
    ADD COLUMN title text NOT NULL DEFAULT '',
    ADD COLUMN source text NOT NULL DEFAULT '',
    ADD COLUMN not_confirmed text[] NOT NULL DEFAULT '{}',
    ADD COLUMN published_by text NOT NULL DEFAULT 'aifn',
    ADD COLUMN published_at timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT one_card_from_a_moment UNIQUE (resource, valid_from);
CREATE TRIGGER rate_card_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rate_card
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
