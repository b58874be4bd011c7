-- Whether two e-mail addresses are the same: but for the case of ASCII letters, sign by sign. `lower` alone follows the
-- database's locale, and in most of them the Kelvin sign is a k and a dotted capital I is an i: other addresses, which may
-- belong to other people. The first condition is there for the index.
CREATE FUNCTION is_address(p_known text, p_told text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lower(p_known) = lower(p_told) AND lower(p_known COLLATE "C") = lower(p_told COLLATE "C");
