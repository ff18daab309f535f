-- Who did step $level and not the one after it ($only), or at least step $level; a page of them by id.
SELECT member_id, count(*) OVER () AS total
FROM members_reached
WHERE level = $level OR (level > $level AND NOT $only)
ORDER BY member_id
LIMIT $rows OFFSET $skip
