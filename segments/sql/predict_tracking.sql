-- Repeat purchases by day of the customers in `cohort`.
SELECT p.day, count(*) AS repeats
FROM purchases AS p
JOIN cohort AS c ON c.customer = p.customer AND p.day > c.first_day
GROUP BY p.day
ORDER BY p.day
