-- What came in is found among what was used: entries by their kinds. Those that people make have an index of their own
-- already, overruns are as few, and deductions are nearly all there is. Settling waits while this is built (it reads the
-- ledger once, some seconds for ten million entries); what is captured meanwhile is in the journals.
CREATE INDEX ledger_entries_of_overruns ON ledger_entries (account_id, entry_no) WHERE kind = 'overrun';

-- An account's latest entries below a number, of these kinds; NULL asks for any. Each branch walks one index backwards.
CREATE FUNCTION entries(p_account uuid, p_before bigint, p_rows bigint, p_kinds text[]) RETURNS SETOF ledger_entries
LANGUAGE sql STABLE AS $$
    SELECT * FROM (
        (SELECT * FROM ledger_entries e WHERE p_kinds IS NULL
            AND e.account_id = p_account AND e.entry_no < p_before ORDER BY e.entry_no DESC LIMIT p_rows)
        UNION ALL
        (SELECT * FROM ledger_entries e WHERE e.request_id IS NULL AND e.kind = ANY (p_kinds)
            AND e.account_id = p_account AND e.entry_no < p_before ORDER BY e.entry_no DESC LIMIT p_rows)
        UNION ALL
        (SELECT * FROM ledger_entries e WHERE e.kind = 'overrun' AND 'overrun' = ANY (p_kinds)
            AND e.account_id = p_account AND e.entry_no < p_before ORDER BY e.entry_no DESC LIMIT p_rows)
        UNION ALL
        (SELECT * FROM ledger_entries e WHERE e.kind = 'deduction' AND 'deduction' = ANY (p_kinds)
            AND e.account_id = p_account AND e.entry_no < p_before ORDER BY e.entry_no DESC LIMIT p_rows)
    ) found ORDER BY found.entry_no DESC LIMIT p_rows
$$;
