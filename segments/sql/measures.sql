-- Recency in calendar days of the shop's zone, frequency and monetary, of members with an order
-- in the window.
SELECT
    member_id,
    date_diff('day', CAST(timezone($zone, make_timestamptz(last_at)) AS DATE), $as_of_day) AS recency,
    CASE WHEN $same_day_once THEN days_in_window ELSE orders_in_window END AS frequency,
    monetary
FROM facts
WHERE orders_in_window > 0
