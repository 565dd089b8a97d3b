module UnitN (Item (..), total, render, grouped) where

import Data.Char (toUpper)
import Data.List (foldl', groupBy, intercalate, sortBy)
import Data.Maybe (mapMaybe)

-- | Number NUMBER.
data Item = Item { name :: String, size :: Int } | Group [Item] deriving (Eq, Ord, Show)

total :: Item -> Int
total (Item _ n) = n + NUMBER
total (Group items) = foldl' (+) 0 (map total items)

render :: Item -> String
render (Item n s) = map toUpper n ++ ":" ++ show s
render (Group items) = "[" ++ intercalate ", " (map render (sortBy compare items)) ++ "]"

grouped :: [Item] -> [(String, Int)]
grouped items = mapMaybe pick (groupBy same (sortBy compare items))
  where
    same one other = firstOf one == firstOf other
    firstOf (Item n _) = take 1 n
    firstOf (Group _) = ""
    pick [] = Nothing
    pick found@(first : _) = Just (firstOf first, sum (map total found))
