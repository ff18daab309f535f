-- Everybody who was there as of the date: registered before it, or bought before it.
SELECT m.member_id, epoch_us(m.registered_at) AS registered_at
FROM members AS m
LEFT JOIN facts AS f ON f.member_id = m.member_id
WHERE m.registered_at IS NULL OR epoch_us(m.registered_at) < $as_of OR f.member_id IS NOT NULL
