-- works-with: 0006
-- Each transaction has a million arrival numbers of its own, so that nobody waits for anybody. The numbers that it does
-- not use are nobody's; the order of transactions is all that they say.
CREATE OR REPLACE FUNCTION take_arrival_numbers(count int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF count > 1000000 THEN
        RAISE 'one transaction cannot have % messages', count USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RETURN nextval('arrival_number') * 1000000;
END $$;
