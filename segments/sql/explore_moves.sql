-- How many members stood where on two dates. A member who is in one snapshot only came in between, or was
-- erased; one without a value had no order in the window, so there was nothing to score.
SELECT
    CASE WHEN b.member_id IS NULL THEN $absent ELSE coalesce(b.{column}, $unscored) END AS source,
    CASE WHEN a.member_id IS NULL THEN $absent ELSE coalesce(a.{column}, $unscored) END AS target,
    count(*) AS members
FROM before AS b
FULL JOIN after AS a ON a.member_id = b.member_id
GROUP BY 1, 2
