-- The same of a file's rows that could be read. $end: the last day that counts.
SELECT customer, day, sum(amount) AS spend
FROM parsed
WHERE reason IS NULL AND day <= $end
GROUP BY ALL
