-- Who stood at $source on the first date and at $target on the second, a page of them by id.
SELECT member_id, count(*) OVER () AS total
FROM (
    SELECT
        coalesce(a.member_id, b.member_id) AS member_id,
        CASE WHEN b.member_id IS NULL THEN $absent ELSE coalesce(b.{column}, $unscored) END AS source,
        CASE WHEN a.member_id IS NULL THEN $absent ELSE coalesce(a.{column}, $unscored) END AS target
    FROM before AS b
    FULL JOIN after AS a ON a.member_id = b.member_id
)
WHERE source = $source AND target = $target
ORDER BY member_id
LIMIT $rows OFFSET $skip
